"""Embedding tables sharded over the vocabulary."""

from __future__ import annotations

import torch

from passes.lowerings.registry import Context, register_lowering

__all__ = ["embedding_vocab"]


@register_lowering("embedding_vocab")
def embedding_vocab(context: Context,
                    weight: torch.Tensor,
                    ids: torch.Tensor,
                    padding_idx: int = -1,
                    scale_grad_by_freq: bool = False,
                    sparse: bool = False) -> torch.Tensor:
    """Rows that this rank holds, zeros elsewhere: the sum is the lookup.

    Gradients are dense also where sparse ones are asked for. Source:
    Shoeybi et al., Megatron-LM, 2019, section 3.
    """
    del sparse
    start = 0
    rows = context.call.inputs[0].shape[0]
    for axis in context.sharding(0, 0):
        rows //= axis.size
        start += axis.coordinate * rows
    local = ids - start
    mine = (local >= 0) & (local < rows)
    local = torch.where(mine, local, 0)
    inside = start <= padding_idx < start + rows
    out = torch.ops.aten.embedding.default(
        weight, local, padding_idx - start if inside else -1)
    if scale_grad_by_freq:
        out = _scaled_gradient(out, _counts(local, mine, rows))
    return out.masked_fill(~mine.unsqueeze(-1), 0.0)


def _counts(local: torch.Tensor, mine: torch.Tensor,
            rows: int) -> torch.Tensor:
    """How often each id occurs, at the id's place; 1 at others' ids."""
    found = torch.zeros(rows, dtype=torch.int64, device=local.device)
    found = found.scatter_add(0, local.flatten(), mine.flatten().long())
    return torch.where(mine, found[local], 1)


def _scaled_gradient(out: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The same value; its gradient is divided by the counts."""
    scaled = out / counts.unsqueeze(-1)
    return scaled + (out - scaled).detach()
