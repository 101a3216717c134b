"""Mixtures of experts: by token, by expert, by the experts' inner dim."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import planner.ops  # noqa: F401 (registers the operator)
from planner.ir.layout import P, Placement, S
from planner.rules.factors import number, partial, place
from planner.rules.registry import OpCall, Option, register

__all__ = ["experts"]


@register(torch.ops.scaletorch.experts.default)
def experts(call: OpCall) -> Iterator[Option]:
    """Tokens, experts or both; the experts' inner dim.

    * Tokens sharded, experts whole: each rank its own tokens.
    * Both sharded: tokens go to the ranks of their experts and back
      (Lepikhin et al., GShard, 2020); nothing is dropped.
    * Experts sharded, tokens whole: each rank what its experts give.
    * Inner dim sharded: partial sums. Where gate and value are the halves
      of one matrix a shard holds rows of one of them only, so that shards
      are exchanged first.
    """
    hidden, index, weights, gate_up, down = range(5)
    biases = [
        number(call.arg(5, "gate_up_bias")),
        number(call.arg(6, "down_bias"))
    ]
    tokens: dict[int | None, Placement] = {
        i: S(0)
        for i in (hidden, index, weights)
    }
    owned: dict[int | None, Placement] = {
        i: S(0)
        for i in (gate_up, down, *biases)
    }
    yield place(call, tokens, S(0))
    yield place(call, {**tokens, **owned}, S(0), lowering="expert_dispatch")
    yield place(call, owned, P, lowering="expert_owned")
    transposed = call.arg(9, "transposed", False)
    cut: dict[int | None, Placement] = {
        gate_up: S(2 if transposed else 1),
        down: S(1 if transposed else 2),
        biases[0]: S(1),
        biases[1]: P
    }
    halves = call.arg(8, "gate", "halves") == "halves"
    yield place(call, cut, P, lowering="expert_halves" if halves else None)
    yield partial(call, weights)
