"""Which dtype a call computes in."""

from __future__ import annotations

import torch

from planner.rules.registry import OpCall

__all__ = ["product_dtype"]


def product_dtype(call: OpCall) -> torch.dtype:
    """The dtype that decides a call's peak rate."""
    floating = [s.dtype for s in call.inputs if s.dtype.is_floating_point]
    return floating[0] if floating else torch.float32
