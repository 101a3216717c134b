"""Some steps of a run under ``torch.profiler``."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from scaletorch.trainer.config import ProfileConfig

__all__ = ["Window"]


class Window:
    """Records a window of steps and writes ``rank0.json``, ...

    The files open in Perfetto and in Chrome's tracing page.
    """

    def __init__(self, config: ProfileConfig) -> None:
        self._config = config
        self._profile: profile | None = None

    def before(self, number: int) -> None:
        """The step with this number (the first has 1) begins."""
        if self._config.steps and number == self._config.start:
            activities = [ProfilerActivity.CPU]
            if torch.accelerator.is_available():
                activities.append(
                    getattr(
                        ProfilerActivity,
                        torch.accelerator.current_accelerator().type.upper(),
                        ProfilerActivity.CPU))
            self._profile = profile(activities=sorted(set(activities),
                                                      key=str),
                                    record_shapes=True)
            self._profile.start()

    def after(self, number: int) -> None:
        """The step with this number is over."""
        if number + 1 >= self._config.start + self._config.steps:
            self.close()

    def close(self) -> None:
        """Write what has been recorded, if anything has."""
        if self._profile is None:
            return
        recorded, self._profile = self._profile, None
        recorded.stop()
        folder = Path(self._config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(
            str(folder / f"rank{dist.get_rank()}.json"))
