"""What a config asks for that has no effect beside the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scaletorch.trainer.config import Config

__all__ = ["unused"]


def unused(config: Config) -> Iterator[str]:
    """A sentence for each option that is given in vain.

    They are no errors: a command line may take one half away, such as
    ``checkpoint.folder=null`` for a short trial.

    Examples
    --------
    >>> from scaletorch.trainer.config import ModelConfig, TrainConfig
    >>> list(unused(Config(model=ModelConfig(name="gpt2"), data={},
    ...                    train=TrainConfig(steps=1, evaluate_batches=2))))
    ['train.evaluate_batches is 2, but train.evaluate_every is 0: nothing is \
evaluated']
    """
    if config.checkpoint.folder is None:
        for name, given in (("checkpoint.every", config.checkpoint.every),
                            ("checkpoint.best", config.checkpoint.best),
                            ("metrics.tensorboard",
                             config.metrics.tensorboard)):
            if given:
                yield (f"{name} is {_shown(given)}, but checkpoint.folder is "
                       "not given: nothing is written")
    if not config.train.evaluate_every:
        if config.evaluation_data is not None:
            yield ("evaluation_data is given, but train.evaluate_every is 0: "
                   "nothing is evaluated")
        if config.train.evaluate_batches:
            yield (f"train.evaluate_batches is {config.train.evaluate_batches}"
                   ", but train.evaluate_every is 0: nothing is evaluated")
    folder = config.model.hugging_face
    if folder is not None and config.model.weights is None:
        if any(Path(folder).glob("*.safetensors*")):
            yield (f"{folder} has weights, but model.weights is not given: "
                   "training starts with random ones; for those give "
                   f"model.weights={folder}")


def _shown(value: bool | int) -> str:
    return str(value).lower()
