"""ScaleTorch: the same PyTorch program on any mesh."""

from planner.ir.errors import (CaptureError, InfeasiblePlan, LayoutError,
                               ScheduleError)
from planner.ir.plan import Plan
from scaletorch.api import auto_parallelize
from scaletorch.module import ParallelModule
from scaletorch.verify import verify

__all__ = [
    "CaptureError", "InfeasiblePlan", "LayoutError", "ParallelModule", "Plan",
    "ScheduleError", "auto_parallelize", "verify"
]
