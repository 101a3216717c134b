"""Means over sharded dims."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["mean_partial"]


@register_lowering("mean_partial")
def mean_partial(context: Context, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Each rank's mean, weighed by its share, so that the ranks' add up."""
    local = context.call.target(*args, **kwargs)
    parts: int | Fraction = 1
    for axis in context.named("mean_partial"):
        parts *= axis.divisor
    return local / (parts if isinstance(parts, int) else float(parts))
