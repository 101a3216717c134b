"""Experts and tokens that are spread over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed._functional_collectives  # noqa: F401 (registers ops)

from passes.collectives import AxisRef, convert
from passes.lowerings.registry import Context, register_lowering
from passes.routed_experts import Route, routed_experts
from planner.ir.layout import S, V
from planner.ops.experts import Settings

__all__ = ["experts"]

_OPS = torch.ops._c10d_functional
_GATE_UP = 3
_NONE: tuple[float, ...] = ()


@register_lowering("expert_dispatch", "expert_owned", "expert_halves")
def experts(context: Context,
            hidden: torch.Tensor,
            index: torch.Tensor,
            weights: torch.Tensor,
            gate_up: torch.Tensor,
            down: torch.Tensor,
            gate_up_bias: torch.Tensor | None = None,
            down_bias: torch.Tensor | None = None,
            activation: str = "silu",
            gate: str = "halves",
            transposed: bool = False,
            constants: Sequence[float] = _NONE) -> torch.Tensor:
    """This rank's part: tokens sent to their experts, or its experts' own.

    ``expert_dispatch`` exchanges tokens along an axis that shards both
    (Lepikhin et al., GShard, 2020), ``expert_owned`` leaves a partial sum
    along one that shards experts only, ``expert_halves`` along one that
    shards their inner dim.
    """
    halves = context.named("expert_halves")
    if halves:
        gate_up = _matched(gate_up, 2 if transposed else 1, halves)
        if gate_up_bias is not None:
            gate_up_bias = _matched(gate_up_bias, 1, halves)
    tensors = (hidden, index, weights, gate_up, down, gate_up_bias, down_bias)
    owners = context.sharding(_GATE_UP, 0)
    if not owners:
        return torch.ops.scaletorch.experts(*tensors, activation, gate,
                                            transposed, list(constants))
    moved = context.named("expert_dispatch")
    route = Route(experts=context.call.inputs[_GATE_UP].shape[0],
                  axes=tuple(a.name for a in owners),
                  sizes=tuple(a.size for a in owners),
                  coordinates=tuple(a.coordinate for a in owners),
                  moved=tuple(a in moved for a in owners))
    return routed_experts(
        route, Settings(activation, gate, transposed, tuple(constants)),
        *tensors)


def _matched(x: torch.Tensor, dim: int,
             axes: Sequence[AxisRef]) -> torch.Tensor:
    """A shard of both halves of a dim, out of a shard of their whole."""
    if len(axes) == 1:
        return _Matched.apply(x, dim, axes[0])
    for axis in reversed(axes):
        x = convert(x, S(dim), V, axis)
    gate, up = x.chunk(2, dim)
    for axis in axes:
        gate, up = (half.chunk(axis.size, dim)[axis.coordinate]
                    for half in (gate, up))
    return torch.cat([gate, up], dim)


class _Matched(torch.autograd.Function):
    """Rank r has parts 2r and 2r + 1 of 2n, and gets parts r and n + r."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int,
                axis: AxisRef) -> torch.Tensor:
        ctx.dim, ctx.axis = dim, axis
        gives, takes = _partners(axis)
        return _swapped(x, dim, axis, gives, takes)

    @staticmethod
    def backward(ctx: Any,
                 grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gives, takes = _partners(ctx.axis)
        return _swapped(grad, ctx.dim, ctx.axis, takes, gives), None, None


def _partners(axis: AxisRef) -> tuple[list[int], list[int]]:
    """To whom this rank's two parts go, and from whom its two come."""
    rank, size = axis.coordinate, axis.size
    return ([2 * rank % size,
             (2 * rank + 1) % size], [rank // 2, (size + rank) // 2])


def _swapped(x: torch.Tensor, dim: int, axis: AxisRef, gives: Sequence[int],
             takes: Sequence[int]) -> torch.Tensor:
    """Send the halves of `x` to two ranks, join what two ranks send."""
    parts = list(x.chunk(2, dim))
    if gives[0] > gives[1]:
        parts.reverse()
    message = torch.stack(parts)
    got = _OPS.wait_tensor(
        _OPS.all_to_all_single(message, _counts(takes, axis),
                               _counts(gives, axis), axis.name))
    first, second = got.unbind()
    if takes[0] > takes[1]:
        first, second = second, first
    return torch.cat([first, second], dim)


def _counts(ranks: Sequence[int], axis: AxisRef) -> list[int]:
    return [list(ranks).count(rank) for rank in range(axis.size)]
