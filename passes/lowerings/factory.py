"""Factories whose values depend on where a shard begins."""

from __future__ import annotations

from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["arange_shard"]


@register_lowering("arange_shard")
def arange_shard(context: Context, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The whole range, and of it this rank's part."""
    whole = context.call.target(*args, **kwargs)
    for axis in context.named("arange_shard"):
        whole = whole.narrow(0, *axis.part(whole.shape[0]))
    return whole
