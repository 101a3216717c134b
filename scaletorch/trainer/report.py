"""Where the metrics of a run go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scaletorch.module import ParallelModule
from scaletorch.trainer.config import Config
from scaletorch.trainer.metrics import (Writer, json_lines, progress,
                                        tensorboard)

__all__ = ["Report"]


class Report:
    """Gives each row of metrics to all that want it.

    Files and the bar are the first rank's, callbacks every rank's.

    Parameters
    ----------
    config : Config
    module : ParallelModule
    step : int
        Updates done before.
    callbacks : sequence of callable
    """

    def __init__(self, config: Config, module: ParallelModule, step: int,
                 callbacks: Sequence[Writer]) -> None:
        self._writers = list(callbacks)
        self._closing: list[Callable[[], None]] = []
        if not module.agreement.is_first:
            return
        if config.checkpoint.folder is not None:
            folder = Path(config.checkpoint.folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(config.to_yaml(),
                                                encoding="utf-8")
            module.plan.save(folder / "plan.yaml")
            self._writers.append(json_lines(folder / "metrics.jsonl"))
            if config.metrics.tensorboard:
                self._writers.append(tensorboard(folder / "tensorboard"))
        if config.metrics.progress:
            write, close = progress(step, config.train.steps)
            self._writers.append(write)
            self._closing.append(close)

    def write(self, row: Mapping[str, float]) -> None:
        """Hand out a row."""
        for writer in self._writers:
            writer(row)

    def close(self) -> None:
        """End the bar."""
        for close in self._closing:
            close()
