"""ScaleTorch: the same PyTorch program on any mesh."""

from planner.ir.errors import (CaptureError, InfeasiblePlan, LayoutError,
                               ScheduleError)
from planner.ir.plan import Plan
from scaletorch.api import auto_parallelize
from scaletorch.checkpoint import load_checkpoint
from scaletorch.expert_load import ExpertLoad, expert_load
from scaletorch.grad_norm import clip_grad_norm_
from scaletorch.module import ParallelModule
from scaletorch.replan import Replanned, replan
from scaletorch.verify import verify

__all__ = [
    "CaptureError", "ExpertLoad", "InfeasiblePlan", "LayoutError",
    "ParallelModule", "Plan", "Replanned", "ScheduleError", "auto_parallelize",
    "clip_grad_norm_", "expert_load", "load_checkpoint", "replan", "verify"
]
