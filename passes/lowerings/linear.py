"""Row-sharded products with a bias that must be added only once."""

from __future__ import annotations

from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["row_bias"]


@register_lowering("linear_row_bias", "conv_row_bias")
def row_bias(context: Context, x: torch.Tensor, weight: torch.Tensor,
             bias: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The partial product; the first rank of the axis adds the bias.

    Ranks that do not add it multiply it by zero instead of leaving it out,
    so that every rank's backward holds the same collectives.
    """
    first = all(axis.coordinate == 0
                for axis in context.named("linear_row_bias", "conv_row_bias"))
    out = context.call.target(x, weight, None, *args, **kwargs)
    channel = -1 if context.named("linear_row_bias") else 1
    shape = [1] * out.dim()
    shape[channel] = -1
    return out + bias.view(shape) * (1.0 if first else 0.0)
