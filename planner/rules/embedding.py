"""Lookups in tables."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import P, R, S
from planner.rules.factors import number, place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["embedding", "embedding_bag"]

aten = torch.ops.aten


@register(aten.embedding.default)
def embedding(call: OpCall) -> Iterable[Option]:
    """By token, by feature, or by row of the table."""
    ids = call.inputs[1].ndim
    # Scaling by frequency counts each token in all ids.
    if not call.arg(3, "scale_grad_by_freq", False):
        for dim in range(ids):
            yield shard(call, (None, dim), dim)
    yield shard(call, (1, None), ids)
    yield place(call, {0: S(0)}, P, lowering="embedding_vocab")


@register(aten.embedding_bag.default, aten.embedding_bag.padding_idx,
          aten._embedding_bag.default)
def embedding_bag(call: OpCall) -> Iterable[Option]:
    """By feature: where a bag begins depends on values of `offsets`."""
    weight = number(call.args[0])
    rest = [S(1) if s.ndim == 2 else R for s in call.outputs[1:]]
    yield place(call, {weight: S(1)}, [S(1), *rest])
