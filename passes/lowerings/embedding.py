"""Embedding tables sharded over the vocabulary."""

from __future__ import annotations

from typing import Any

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["embedding_vocab"]


@register_lowering("embedding_vocab")
def embedding_vocab(context: Context, weight: torch.Tensor, ids: torch.Tensor,
                    *args: Any, **kwargs: Any) -> torch.Tensor:
    """Rows that this rank holds, zeros elsewhere: the sum is the lookup.

    Source: Shoeybi et al., Megatron-LM, 2019, section 3.
    """
    start = 0
    rows = context.call.inputs[0].shape[0]
    for axis in context.sharding(0, 0):
        rows //= axis.size
        start += axis.coordinate * rows
    local = ids - start
    mine = (local >= 0) & (local < rows)
    padding = args[0] if args else kwargs.get("padding_idx", -1)
    inside = start <= padding < start + rows
    out = torch.ops.aten.embedding.default(weight, torch.where(mine, local, 0),
                                           padding - start if inside else -1)
    return out.masked_fill(~mine.unsqueeze(-1), 0.0)
