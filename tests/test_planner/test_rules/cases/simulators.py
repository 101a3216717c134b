"""All ranks of each lowering, simulated in one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from planner.rules.numeric import Simulator, run_call
from planner.rules.registry import OpCall, Option
from tests.test_planner.test_rules.cases import mixtures

__all__ = ["SIMULATORS"]

Ranks = Sequence[Sequence[torch.Tensor]]


def _mean_partial(call: OpCall, option: Option,
                  ranks: Ranks) -> list[list[torch.Tensor]]:
    size = len(ranks)
    return [[
        x / size for x in run_call(call.target, call.args, call.kwargs, rank)
    ] for rank in ranks]


def _row_bias(call: OpCall, option: Option,
              ranks: Ranks) -> list[list[torch.Tensor]]:
    outs = []
    for r, (x, weight, bias) in enumerate(ranks):
        args = (*call.args[:2], None, *call.args[3:])
        out, = run_call(call.target, args, {}, (x, weight))
        conv = option.lowering == "conv_row_bias"
        shape = [1] * out.dim()
        shape[1 if conv else -1] = -1
        outs.append([out + bias.view(shape) * float(r == 0)])
    return outs


def _embedding_vocab(call: OpCall, option: Option,
                     ranks: Ranks) -> list[list[torch.Tensor]]:
    outs = []
    for r, (weight, ids) in enumerate(ranks):
        local = ids - r * weight.shape[0]
        mine = (local >= 0) & (local < weight.shape[0])
        rows = weight[torch.where(mine, local, 0)]
        padding = call.arg(2, "padding_idx", -1)
        rows = torch.where((ids == padding)[..., None], rows.detach(), rows)
        if call.arg(3, "scale_grad_by_freq", False):
            counts = torch.bincount(ids.flatten())[ids][..., None]
            rows = rows / counts + (rows - rows / counts).detach()
        outs.append([rows * mine[..., None]])
    return outs


def _cross_entropy_partial(call: OpCall, option: Option,
                           ranks: Ranks) -> list[list[torch.Tensor]]:
    ignored = call.arg(4, "ignore_index", -100)

    def count(rank: Sequence[torch.Tensor]) -> torch.Tensor:
        kept = rank[1] != ignored
        if len(rank) < 3:
            return kept.sum()
        return (rank[2][torch.where(kept, rank[1], 0)] * kept).sum()

    total = sum(count(rank) for rank in ranks)
    args = list(call.args) + [1] * (4 - len(call.args))
    args[3] = 2
    if len(call.args) < 3:
        args[2] = None
    return [[run_call(call.target, tuple(args), {}, rank)[0] / total]
            for rank in ranks]


def _cross_entropy_vocab(call: OpCall, option: Option,
                         ranks: Ranks) -> list[list[torch.Tensor]]:
    dim = option.inputs[0].dim
    logits = torch.cat([rank[0] for rank in ranks], dim)
    reduction = ("none", "mean", "sum")[call.arg(3, "reduction", 1)]
    loss = F.cross_entropy(logits, ranks[0][1], reduction=reduction)
    return [[loss.clone()] for _ in ranks]


def _sync_batch_norm(call: OpCall, option: Option,
                     ranks: Ranks) -> list[list[torch.Tensor]]:
    """Statistics over all ranks; each rank's own scale and shift."""
    dim, size = option.inputs[0].dim, len(ranks)
    x = torch.cat([rank[0] for rank in ranks], dim)
    args = (x, None, None, *ranks[0][3:], *call.args[5:])
    out, *rest = call.target(*args)
    outs = []
    for rank, part in zip(ranks, out.tensor_split(size, dim), strict=True):
        shape = [1, -1] + [1] * (x.dim() - 2)
        part = part * rank[1].view(shape) + rank[2].view(shape)
        outs.append([part, *(s.clone() for s in rest)])
    return outs


def _arange_shard(call: OpCall, option: Option,
                  ranks: Ranks) -> list[list[torch.Tensor]]:
    whole, = run_call(call.target, call.args, call.kwargs, ())
    return [[part] for part in whole.tensor_split(len(ranks))]


def _sdpa_query_shard(call: OpCall, option: Option,
                      ranks: Ranks) -> list[list[torch.Tensor]]:
    outs = []
    for r, (query, key, value, *mask) in enumerate(ranks):
        rows = query.shape[-2]
        at = torch.arange(r * rows, (r + 1) * rows)
        allowed = at[:, None] >= torch.arange(key.shape[-2])[None]
        kwargs = {k: v for k, v in call.kwargs.items() if k != "is_causal"}
        outs.append(
            [call.target(query, key, value, allowed, 0.0, False, **kwargs)])
    return outs


def _ring_attention(call: OpCall, option: Option,
                    ranks: Ranks) -> list[list[torch.Tensor]]:
    """Whole attention of what all ranks have; each rank's rows of it."""
    whole = []
    for i, placement in enumerate(option.inputs):
        parts = [rank[i] for rank in ranks]
        # Of a mask that is not sharded each rank's copy is for its rows.
        whole.append(
            torch.cat(parts, placement.dim) if placement.is_shard else torch.
            cat([
                p.expand(*p.shape[:-2], ranks[0][0].shape[-2], -1)
                for p in parts
            ], -2))
    out, = run_call(call.target, call.args, call.kwargs, whole)
    return [[part] for part in out.tensor_split(len(ranks), -2)]


SIMULATORS: dict[str, Simulator] = {
    **mixtures.SIMULATORS,
    "arange_shard": _arange_shard,
    "conv_row_bias": _row_bias,
    "cross_entropy_partial": _cross_entropy_partial,
    "cross_entropy_vocab": _cross_entropy_vocab,
    "embedding_vocab": _embedding_vocab,
    "linear_row_bias": _row_bias,
    "mean_partial": _mean_partial,
    "ring_attention": _ring_attention,
    "ring_attention_causal": _ring_attention,
    "ring_attention_zigzag": _ring_attention,
    "sdpa_query_shard": _sdpa_query_shard,
    "sync_batch_norm": _sync_batch_norm,
}
