"""Mixtures of experts, and their lowerings simulated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import planner.ops  # noqa: F401 (registers the operator)
from planner.rules.numeric import Simulator, run_call
from planner.rules.registry import OpCall, Option
from tests.test_planner.test_rules.cases.case import (Case, case, ints, normal,
                                                      positive)

__all__ = ["CASES", "SIMULATORS"]

Ranks = Sequence[Sequence[torch.Tensor]]

_TOKENS, _WIDTH, _INNER, _EXPERTS, _K = 12, 6, 12, 12, 2


def _experts(gate: str,
             *,
             transposed: bool,
             bias: bool,
             constants: Sequence[float] = ()) -> Case:
    outer = _INNER if gate == "none" else 2 * _INNER
    gate_up = (_WIDTH, outer) if transposed else (outer, _WIDTH)
    down = (_INNER, _WIDTH) if transposed else (_WIDTH, _INNER)
    biases = (normal(_EXPERTS, outer),
              normal(_EXPERTS, _WIDTH)) if bias else (None, None)
    return case(torch.ops.scaletorch.experts.default,
                normal(_TOKENS, _WIDTH),
                ints(_EXPERTS, _TOKENS, _K),
                positive(_TOKENS, _K),
                normal(_EXPERTS, *gate_up),
                normal(_EXPERTS, *down),
                *biases,
                "silu",
                gate,
                transposed,
                list(constants),
                least=5)


CASES = (
    _experts("halves", transposed=False, bias=False),
    _experts("halves", transposed=True, bias=True),
    _experts("none", transposed=False, bias=True),
    _experts("pairs", transposed=False, bias=False),
    _experts("clamped_pairs", transposed=True, bias=True,
             constants=(1.7, 0.6)),
)


def _dispatch(call: OpCall, option: Option,
              ranks: Ranks) -> list[list[torch.Tensor]]:
    whole = [torch.cat(parts) for parts in zip(*ranks, strict=True)]
    out, = run_call(call.target, call.args, call.kwargs, whole)
    return [[part] for part in out.chunk(len(ranks))]


def _owned(call: OpCall, option: Option,
           ranks: Ranks) -> list[list[torch.Tensor]]:
    outs = []
    for r, (hidden, index, weights, *experts) in enumerate(ranks):
        local = index - r * len(experts[0])
        mine = (local >= 0) & (local < len(experts[0]))
        outs.append(
            run_call(call.target, call.args, call.kwargs,
                     (hidden, local.where(mine, 0), weights * mine, *experts)))
    return outs


def _halves(call: OpCall, option: Option,
            ranks: Ranks) -> list[list[torch.Tensor]]:
    size = len(ranks)

    def matched(number: int) -> list[torch.Tensor]:
        dim = option.inputs[number].dim
        whole = torch.cat([rank[number] for rank in ranks], dim)
        halves = [half.chunk(size, dim) for half in whole.chunk(2, dim)]
        return [torch.cat(parts, dim) for parts in zip(*halves, strict=True)]

    replaced = {i: matched(i) for i in (3, 5) if i < len(call.inputs)}
    return [
        run_call(call.target, call.args, call.kwargs, [
            replaced[i][r] if i in replaced else x for i, x in enumerate(rank)
        ]) for r, rank in enumerate(ranks)
    ]


SIMULATORS: dict[str, Simulator] = {
    "expert_dispatch": _dispatch,
    "expert_halves": _halves,
    "expert_owned": _owned,
}
