"""The model that is explained: a file, a Hugging Face config or a name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from planner.batches import with_rows
from planner.explain.inputs import config_inputs, returns_loss
from planner.explain.registered import registered

__all__ = ["Loaded", "half_batch", "load_model", "loss_only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with one global batch and the loss, if it has its own none.

    `remark` is what an error in the model's call is to add.
    """

    model: nn.Module
    inputs: Any
    loss_fn: Callable[..., Any] | None = None
    remark: str = ""


def load_model(path: Path,
               *,
               batch: int,
               sequence: int | None = None,
               dtype: str | None = None) -> Loaded:
    """Load what ``python -m planner.explain`` was given.

    Parameters
    ----------
    path : Path
        A Python file with ``get_model()`` and ``get_inputs()`` (or ``model``
        and ``example_inputs``), and maybe ``loss_fn``; or a Hugging Face
        ``config.json``, whose model is built on the meta device; or, if
        there is no such file, a name of the `registered` models.
    batch, sequence : int
        Global batch size and tokens in each sequence, for a config or a
        name; by default as many as the model has positions, and no more
        than 4096.
    dtype : str, optional
        Of the parameters, for a config or a name; the config's own, or
        bfloat16, if left out.

    Raises
    ------
    ValueError
        When the file is missing, fails or offers no model.
    """
    if not path.is_file():
        return _from_name(path, batch, sequence, dtype)
    if path.suffix == ".json":
        return _from_config(path, batch, sequence, dtype)
    with _telling_place(path):
        module = _imported(path)
    return _from_module(module, path)


def half_batch(loaded: Loaded, rows: int) -> Loaded:
    """The same model on the first half of a batch of `rows`.

    Raises
    ------
    ValueError
        When the rows are not an even number.
    """
    if rows % 2:
        raise ValueError(f"--half-batch: a batch of {rows} rows can't be "
                         "halved; make it even")
    return dataclasses.replace(loaded,
                               inputs=with_rows(loaded.inputs, rows // 2))


def _from_name(path: Path, batch: int, sequence: int | None,
               dtype: str | None) -> Loaded:
    if path.suffix in (".json", ".py") or len(path.parts) > 1:
        raise ValueError(f"there is no file {str(path)!r}; give a Python "
                         "file with get_model() and get_inputs(), a Hugging "
                         "Face config.json or a model's name")
    model, inputs = registered(str(path),
                               batch=batch,
                               sequence=sequence,
                               dtype=_dtype(dtype or "bfloat16"))
    return Loaded(model=model, inputs=inputs)


@contextlib.contextmanager
def _telling_place(path: Path) -> Iterator[None]:
    """Whatever the file raises, with the line of it that does."""
    try:
        yield
    except Exception as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__)
            if Path(f.filename).resolve() == path.resolve()
        ]
        place = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"{str(path)!r}{place}, raises "
                         f"{type(error).__name__}: {error}") from error


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"explained_{path.stem}",
                                                  path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{str(path)!r} is no Python file and no .json")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_module(module: ModuleType, path: Path) -> Loaded:
    return Loaded(model=_offered(module, path, "get_model", "model"),
                  inputs=_offered(module, path, "get_inputs",
                                  "example_inputs"),
                  loss_fn=getattr(module, "loss_fn", None))


def _offered(module: ModuleType, path: Path, function: str, name: str) -> Any:
    if hasattr(module, function):
        with _telling_place(path):
            return getattr(module, function)()
    if hasattr(module, name):
        return getattr(module, name)
    raise ValueError(f"{str(path)!r} has neither {function}() nor {name}; "
                     "define one of them")


def _from_config(path: Path, batch: int, sequence: int | None,
                 dtype: str | None) -> Loaded:
    import transformers
    fields = json.loads(path.read_text(encoding="utf-8"))
    kind = fields.pop("model_type", None)
    if kind is None:
        raise ValueError(f"{str(path)!r} has no model_type: it is no Hugging "
                         "Face config; write a Python file with get_model() "
                         "and get_inputs()")
    try:
        config = transformers.AutoConfig.for_model(kind, **fields)
    except Exception as error:
        # Each config checks its fields in its own way.
        raise ValueError(f"{str(path)!r} is no config that transformers "
                         f"takes: {error}") from error
    chosen = _dtype(dtype or fields.get("dtype") or fields.get("torch_dtype")
                    or "bfloat16")
    with torch.device("meta"):
        model = _build(transformers, config).to("meta", chosen).train()
        inputs = config_inputs(model,
                               config,
                               batch=batch,
                               sequence=sequence,
                               dtype=chosen)
    if not returns_loss(model):
        warnings.warn(
            f"{type(model).__name__} is called without labels: the mean of "
            "its first output is taken for a loss",
            stacklevel=3)
    return Loaded(model=loss_only(model),
                  inputs=inputs,
                  remark="; for a config the model is called with "
                  f"{' and '.join(inputs)}: if it takes others, or returns no "
                  "loss for these, write a Python file with get_model() and "
                  "get_inputs()")


def loss_only(model: nn.Module) -> nn.Module:
    """The model returning its loss alone, or for want of one the mean of its
    first output.

    Every rank gets what a model returns, whole; logits of a large batch
    would fill the memory that is planned for.
    """
    base = type(model)

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = base.forward(self, *args, **kwargs)
        loss = getattr(found, "loss", None)
        return found[0].float().mean() if loss is None else loss

    model.__class__ = type(base.__name__, (base, ), {"forward": forward})
    return model


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"{name!r} is no dtype; use bfloat16, float16 or "
                         "float32")
    return found


def _made(cls: type[nn.Module], config: Any) -> nn.Module:
    try:
        return cls(config)
    except Exception as error:
        # Sizes that misfit are found by whichever module has them.
        raise ValueError(f"{cls.__name__} can't be built from this config: "
                         f"{str(error).strip()}") from error


def _build(transformers: ModuleType, config: Any) -> nn.Module:
    """By the architectures field, else as a causal language model."""
    for name in config.architectures or ():
        cls = getattr(transformers, name, None)
        if cls is not None:
            return _made(cls, config)
    try:
        return transformers.AutoModelForCausalLM.from_config(config)
    except ValueError:
        raise ValueError(
            f"a config of model_type {config.model_type!r} names no "
            "architecture that is known; add \"architectures\", or write a "
            "Python file with get_model() and get_inputs()") from None
