"""Loops over time steps, which a trace would unroll.

A graph with some nodes for each of thousands of steps takes minutes to trace
and to plan, and nothing divides it. Such a loop is refused as soon as it has
shown to be one, so that the function or module it is in is run as it is.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from torch.overrides import TorchFunctionMode

from planner.capture.opaque.call import running_whole
from planner.ir.errors import CaptureError

__all__ = ["MOST_STEPS", "LongLoop", "LongLoops"]

MOST_STEPS = 400
"""How often one instruction of a running function may be traced."""

_FRAMES = 8
"""Of how many running functions instructions are counted."""

_MODE = "__torch_function__"
_OURS = str(Path(__file__).parents[1])


class LongLoop(CaptureError):
    """A loop that no trace is to unroll, whatever else is known."""


class LongLoops(TorchFunctionMode):
    """Counts how often each instruction of a running function calls torch.

    Raises
    ------
    LongLoop
        From inside of the loop.
    """

    def __init__(self) -> None:
        super().__init__()
        # The frames are held so that none takes the place of another.
        self.steps: collections.OrderedDict[
            FrameType, collections.Counter[int]] = collections.OrderedDict()

    def __exit__(self, *reason: Any) -> None:
        self.steps.clear()
        super().__exit__(*reason)

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        frame: FrameType | None = sys._getframe(1)
        # Other modes call what the model called.
        while frame is not None and frame.f_code.co_name == _MODE:
            frame = frame.f_back
        if frame is not None and not frame.f_code.co_filename.startswith(
                _OURS):
            self._count(frame)
        return func(*args, **(kwargs or {}))

    def _count(self, frame: FrameType) -> None:
        steps = self.steps.setdefault(frame, collections.Counter())
        self.steps.move_to_end(frame)
        if len(self.steps) > _FRAMES:
            self.steps.popitem(last=False)
        steps[frame.f_lasti] += 1
        if steps[frame.f_lasti] > MOST_STEPS and not running_whole():
            raise LongLoop(
                f"a loop runs more than {MOST_STEPS} times, at "
                f"{frame.f_code.co_filename}:{frame.f_lineno} in "
                f"{frame.f_code.co_name}; a graph has each step by itself, "
                "which takes minutes to trace: compute all steps at once "
                "(a scan by chunks), or install the kernel that does")
