"""What moves in a step: collectives and copies, as they are met.

Conversions of values from one layout to another, and what calls send inside
of their lowerings. Each collective has a number, its place among those found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from planner.cost.block_order import Called, Message, Moved
from planner.cost.calls import KnownCall
from planner.cost.conversion import ConversionCost, Held
from planner.cost.lowering import lowering_moves, lowering_time_s
from planner.cost.plan_price import CollectivePrice
from planner.ir.convert import Move, Step, conversion_steps
from planner.ir.layout import Layout
from planner.ir.layouts import CallLayout, ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.rules.registry import TensorSpec

__all__ = ["BOTH", "PricedMoves"]

BOTH = ("forward", "backward")
"""Directions in which a value and its gradient go."""


class PricedMoves:
    """Prices what moves, and adds it up.

    Parameters
    ----------
    layout : ProgramLayout
    cost : ConversionCost
        Of the layout's mesh.
    divisors : sequence of int or Fraction
        What divides this rank's values along each axis.

    Attributes
    ----------
    found : list of CollectivePrice
    local_s : float
        Conversions that move nothing between ranks.
    """

    def __init__(self, layout: ProgramLayout, cost: ConversionCost,
                 divisors: Sequence[int | Fraction]) -> None:
        self._mesh = layout.mesh
        self._cost = cost
        self._divisors = divisors
        self.found: list[CollectivePrice] = []
        self.local_s = 0.0

    def inside(self,
               where: str,
               call: KnownCall,
               chosen: CallLayout,
               count: int,
               *,
               again: bool = False) -> list[Called | Moved]:
        """Collectives inside of a call's lowering."""
        mesh = self._mesh
        moved = Moved(value=call.label, made=False)
        for axis, name in enumerate(mesh.names):
            lowering = chosen.options[axis].lowering
            for move in lowering_moves(call.call, chosen.options, mesh.sizes,
                                       axis):
                if again and move.direction != "forward":
                    continue
                seconds = lowering_time_s(move,
                                          self._cost,
                                          axis,
                                          options=chosen.options)
                self.found.append(
                    CollectivePrice(
                        where=where,
                        value=f"{call.label} [{lowering}]",
                        kind=move.kind,
                        axis=name,
                        direction="recompute" if again else move.direction,
                        size_bytes=move.size_bytes * mesh.sizes[axis],
                        time_s=seconds * count,
                        count=count))
                way = (moved.backward
                       if move.direction == "backward" else moved.forward)
                way.append(Message(len(self.found) - 1, seconds))
        return [moved] if moved.forward or moved.backward else []

    def convert(self,
                where: str,
                label: str,
                spec: TensorSpec,
                source: Layout,
                target: Layout,
                count: int,
                directions: tuple[str, ...] = BOTH,
                *,
                sent: bool = False,
                state: bool = False) -> Moved:
        """A value from one layout to another, `count` times.

        `sent` by what made it, else fetched by who reads it; `state`: of a
        parameter, whose shards are even.
        """
        moved = Moved(value=label, made=sent)
        steps = conversion_steps(source,
                                 target,
                                 differentiable=spec.requires_grad)
        assert steps is not None, f"{label}: {source} to {target}"
        for step in steps:
            whole = self._cost.held(spec, step)
            assert whole is not None
            whole = whole.times(self._weight(step, state))
            for direction in directions:
                backward = direction == "backward"
                if not backward or spec.requires_grad:
                    how = step.backward if backward else step.forward
                    self._move(where, label, direction, how, whole, step.axis,
                               count, moved)
        moved.backward.reverse()
        return moved

    def _weight(self, step: Step, state: bool) -> float:
        """What the group of a step's axis holds, over an even share."""
        if state:
            return 1.0
        return math.prod(
            float(size / divisor) for a, (size, divisor) in enumerate(
                zip(self._cost.sizes, self._divisors, strict=True))
            if a != step.axis and step.before[a].is_shard)

    def _move(self, where: str, label: str, direction: str, how: Move,
              whole: Held, axis: int, count: int, moved: Moved) -> None:
        if self._mesh.names[axis] == MICROBATCH:
            return  # nothing moves between them
        each_s = self._cost.move_time_s(how, whole, axis)
        seconds = each_s * count
        backward = direction == "backward"
        if not how.is_collective:
            self.local_s += seconds
            if backward:
                moved.backward_s += each_s
            else:
                moved.forward_s += each_s
            return
        way = moved.backward if backward else moved.forward
        way.append(Message(len(self.found), each_s))
        self.found.append(
            CollectivePrice(where=where,
                            value=label,
                            kind=how.kind,
                            axis=self._mesh.names[axis],
                            direction=direction,
                            size_bytes=whole.size_bytes,
                            time_s=seconds,
                            count=count))
