"""Attention with a sharded query sequence."""

from __future__ import annotations

from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["sdpa_query_shard"]


@register_lowering("sdpa_query_shard")
def sdpa_query_shard(context: Context,
                     query: torch.Tensor,
                     key: torch.Tensor,
                     value: torch.Tensor,
                     attn_mask: torch.Tensor | None = None,
                     dropout_p: float = 0.0,
                     is_causal: bool = False,
                     **kwargs: Any) -> torch.Tensor:
    """This rank's queries against all keys, causal by their position."""
    start = 0
    rows = context.call.inputs[0].shape[-2]
    for axis in context.sharding(0, query.dim() - 2):
        rows //= axis.size
        start += axis.coordinate * rows
    if is_causal:
        at = torch.arange(start, start + rows, device=query.device)
        keys = torch.arange(key.shape[-2], device=query.device)
        attn_mask = at[:, None] >= keys[None, :]
    return torch.ops.aten.scaled_dot_product_attention.default(
        query, key, value, attn_mask, dropout_p, False, **kwargs)
