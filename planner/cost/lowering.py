"""Communication inside of lowerings, which no conversion stands for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from planner.cost.conversion import ConversionCost
from planner.cost.experts import COUNT_BYTES, expert_sizes, is_uneven
from planner.cost.lowering_move import LoweringMove
from planner.cost.ring import ring_moves, ring_unevenness
from planner.cost.roofline import attention_flops_per_s
from planner.rules.registry import OpCall, Option
from planner.rules.ring import RING_LOWERINGS

__all__ = [
    "LoweringMove", "lowering_moves", "lowering_time_s", "moving_lowerings",
    "unevenness"
]

_INDEX, _GATE_UP = 1, 3

Moves = Callable[[OpCall, Sequence[Option], Sequence[int]],
                 Sequence[LoweringMove]]


def _dispatch(call: OpCall, options: Sequence[Option],
              sizes: Sequence[int]) -> tuple[LoweringMove, ...]:
    """Rows to their experts and back, and their gradients likewise.

    Before, ranks tell each other how many they send; a row goes with its
    weight, whose gradient comes back.
    """
    pairs = list(zip(options, sizes, strict=True))
    shares = math.prod(n for o, n in pairs if o.inputs[_INDEX].is_shard)
    alone = math.prod(n for o, n in pairs if o.lowering == "expert_owned")
    experts = expert_sizes(call)
    row_bytes = experts.row_bytes / (shares * alone)
    weighted_bytes = row_bytes * (1 + 1 / experts.width)
    count_bytes = COUNT_BYTES * call.inputs[_GATE_UP].shape[0] / alone
    moves = {
        "forward": (count_bytes, weighted_bytes, row_bytes),
        "backward": (row_bytes, weighted_bytes)
    }
    if not call.outputs[0].requires_grad:
        del moves["backward"]
    return tuple(
        LoweringMove(kind="all_to_all", direction=d, size_bytes=size_bytes)
        for d, each in moves.items() for size_bytes in each)


def _halves(call: OpCall, options: Sequence[Option],
            sizes: Sequence[int]) -> tuple[LoweringMove, ...]:
    """Shards of the first matrix, and its gradient's back."""
    spec = call.inputs[_GATE_UP]
    shares = math.prod(n for o, n in zip(options, sizes, strict=True)
                       if o.inputs[_GATE_UP].is_shard)
    return tuple(
        LoweringMove(kind="all_to_all",
                     direction=direction,
                     size_bytes=spec.size_bytes / shares)
        for direction in ("forward",
                          "backward")[:1 + bool(spec.requires_grad)])


_MOVES: Mapping[str, Moves] = MappingProxyType({
    "expert_dispatch": _dispatch,
    "expert_halves": _halves,
})


def moving_lowerings() -> frozenset[str]:
    """Lowerings that cost more than the call's own work, divided."""
    return frozenset(_MOVES) | {"expert_owned"} | frozenset(RING_LOWERINGS)


def lowering_moves(call: OpCall, options: Sequence[Option],
                   sizes: Sequence[int], axis: int) -> Sequence[LoweringMove]:
    """The collectives of a call's lowering over one axis.

    Parameters
    ----------
    call : OpCall
    options : sequence of Option
        One per axis.
    sizes : sequence of int
    axis : int
    """
    if options[axis].lowering in RING_LOWERINGS:
        return ring_moves(call, options, sizes, axis)
    moves = _MOVES.get(options[axis].lowering or "")
    return moves(call, options, sizes) if moves is not None else ()


def lowering_time_s(found: LoweringMove, cost: ConversionCost, axis: int, *,
                    options: Sequence[Option]) -> float:
    """Seconds that no computation hides; uneven rows take the longest.

    Parameters
    ----------
    found : LoweringMove
    cost : ConversionCost
        Of the mesh.
    axis : int
        Over which it goes.
    options : sequence of Option
        Of the call, one for each axis.
    """
    more = cost.expert_imbalance if is_uneven(options) else 1.0
    each_s = cost.collective_s(found.kind,
                               found.size_bytes * more / found.times, axis)
    device = cost.device
    flops_per_s = attention_flops_per_s(device,
                                        found.dtype,
                                        backward=found.direction == "backward")
    hidden_s = found.flops / found.times / cost.divided / flops_per_s
    return found.times * max(0.0, each_s - hidden_s)


def unevenness(cost: ConversionCost, options: Sequence[Option]) -> float:
    """How much more than the mean the rank with most to do has."""
    if is_uneven(options):
        return cost.expert_imbalance
    return ring_unevenness(options, cost.sizes)
