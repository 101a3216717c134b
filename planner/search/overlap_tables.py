"""Layouts over one or two axes as numbers, and what turns one into another.

A number stands for the placements over both axes, so that tables of pairs
of layouts are taken by index, as those over one axis are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.cost.conversion import ConversionCost, Held
from planner.ir.convert import Move, conversion_steps, gradient_move, move
from planner.ir.layout import Layout, R
from planner.rules.registry import TensorSpec
from planner.search.axis_moves import AxisMoves
from planner.search.placed import (PLAIN, Numbers, numbered, placement_of,
                                   placements)

__all__ = ["OverlapTables", "layout_of", "number_of", "numbers_of"]

_BASE = 4096
_Array = npt.NDArray[np.float64]


def numbers_of(each: Sequence[Numbers]) -> Numbers:
    """From the placements' numbers over each axis."""
    found = each[0]
    for own in each[1:]:
        found = found * _BASE + own
    return found


@functools.lru_cache(maxsize=65536)
def number_of(layout: Layout) -> int:
    """The number of a layout."""
    return int(numbers_of([numbered([p]) for p in layout])[0])


@functools.lru_cache(maxsize=65536)
def layout_of(number: int, axes: int) -> Layout:
    """The layout of a number, over so many axes.

    Examples
    --------
    >>> layout_of(number_of((R, R)), 2)
    (R, R)
    """
    found = []
    for _ in range(axes):
        number, own = divmod(number, _BASE)
        found.append(placement_of(own))
    return tuple(reversed(found))


@dataclass(slots=True, eq=False)
class OverlapTables:
    """Seconds of conversions, each way counted by a weight of its own.

    What is copied on a rank counts in full. It has what
    `planner.search.fan_out.FanOut` asks of tables.

    Parameters
    ----------
    cost : ConversionCost
        Of the axes, one or two.
    forward, backward : float
        What a second of messages counts.
    """

    cost: ConversionCost
    forward: float
    backward: float
    fan_outs: dict[tuple[object, ...], Any] = field(default_factory=dict)
    _moves: AxisMoves = field(init=False)
    _known: dict[TensorSpec, _Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._moves = AxisMoves(self.cost)

    def both_s(self, spec: TensorSpec, axis: int, source: Layout,
               target: Layout, made: Numbers, wanted: Numbers) -> _Array:
        """One row for each of `made`; the layouts over other axes are none.
        """
        del axis, source, target
        rows, columns = (self._places(n, spec.ndim) for n in (made, wanted))
        if rows is None or columns is None:
            return self._by_steps(spec, made, wanted)
        if spec not in self._known:
            self._known[spec] = self._every(spec)
        return self._known[spec][rows[:, None], columns]

    def _places(self, numbers: Numbers, ndim: int) -> Numbers | None:
        """Rows of a table of every layout; None for some by parts."""
        count = len(PLAIN) + ndim
        if len(self.cost.sizes) == 1:
            return numbers if (numbers < count).all() else None
        outer, inner = np.divmod(numbers, _BASE)
        if (outer >= count).any() or (inner >= count).any():
            return None
        return outer * count + inner

    def _by_steps(self, spec: TensorSpec, made: Numbers,
                  wanted: Numbers) -> _Array:
        axes = len(self.cost.sizes)
        return np.array([[
            self._steps_s(spec, layout_of(i, axes), layout_of(j, axes))
            for j in wanted.tolist()
        ] for i in made.tolist()])

    def _steps_s(self, spec: TensorSpec, source: Layout,
                 target: Layout) -> float:
        steps = conversion_steps(source,
                                 target,
                                 differentiable=spec.requires_grad)
        if steps is None:
            return math.inf
        found = 0.0
        for step in steps:
            whole = self.cost.held(spec, step)
            if whole is None:
                return math.inf
            found += self._counted_s(step.forward, whole, step.axis,
                                     self.forward)
            if spec.requires_grad:
                found += self._counted_s(step.backward, whole, step.axis,
                                         self.backward)
        return found

    def _counted_s(self, how: Move, whole: Held, axis: int,
                   weight: float) -> float:
        time_s = self.cost.move_time_s(how, whole, axis)
        return time_s * (weight if how.is_collective else 1.0)

    def _every(self, spec: TensorSpec) -> _Array:
        """From every layout to every other."""
        if len(self.cost.sizes) == 1:
            return self._over(spec, 0, (R, ))
        every = placements(spec.ndim)
        count = len(every)
        # By what the other axis has meanwhile, the own before and after.
        outer = np.array([self._over(spec, 0, (R, p)) for p in every])
        inner = np.array([self._over(spec, 1, (p, R)) for p in every])
        # From (i, j) to (k, l): the outer axis first, or the inner.
        outer_first = (outer.transpose(1, 0, 2)[:, :, :, None] +
                       inner.transpose(1, 0, 2)[None])
        inner_first = (inner[:, :, None, :] +
                       outer.transpose(1, 2, 0)[:, None])
        return np.minimum(outer_first,
                          inner_first).reshape(count * count, count * count)

    def _over(self, spec: TensorSpec, axis: int, layout: Layout) -> _Array:
        """Over one axis, the other as it is."""
        forward, backward = self._moves.times_s(spec, axis, layout)
        sent, back = _messages(spec.ndim, spec.requires_grad)
        return (_weighed_s(forward, sent, self.forward) +
                _weighed_s(backward, back, self.backward))


def _weighed_s(times_s: _Array, messages: npt.NDArray[np.bool_],
               weight: float) -> _Array:
    """What is impossible stays so, whatever messages count."""
    return np.where(messages & np.isfinite(times_s), weight, 1.0) * times_s


@functools.lru_cache(maxsize=64)
def _messages(ndim: int, differentiable: bool) -> tuple[Any, Any]:
    """Of which pairs of placements the ways are messages."""
    every = placements(ndim)

    def flags(of: Any) -> npt.NDArray[np.bool_]:
        found = [[of(s, t) for t in every] for s in every]
        return np.array([[m is not None and m.is_collective for m in row]
                         for row in found])

    back = flags(gradient_move)
    return flags(move), back & differentiable
