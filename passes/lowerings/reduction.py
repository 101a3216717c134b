"""Means over sharded dims."""

from __future__ import annotations

from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["mean_partial"]


@register_lowering("mean_partial")
def mean_partial(context: Context, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Each rank's mean, scaled so that the ranks' values add up."""
    local = context.call.target(*args, **kwargs)
    ranks = 1
    for axis in context.named("mean_partial"):
        ranks *= axis.size
    return local / ranks
