"""Prices of all moves of one axis at once, the other axes as they are.

What turns one placement into another over one axis depends on the number of
dims alone, and what that takes on few kinds of moves and the bytes; so a
table over all placements is a few prices, taken by index.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.cost.conversion import ConversionCost, Held
from planner.ir.convert import Move, gradient_move, move
from planner.ir.layout import Layout, Placement, R, local_shape
from planner.rules.registry import TensorSpec
from planner.search.placed import placements, with_own

__all__ = ["AxisMoves"]

_Array = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.intp]

_BEHIND = 99
"""A dim with others before it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Moves:
    """The move of each pair of placements, as a number in `kinds`.

    The last number, behind all kinds, is of what can't be done.
    """

    kinds: tuple[Move, ...]
    forward: _Numbers
    backward: _Numbers


@dataclass(slots=True)
class AxisMoves:
    """Tables of one mesh, by what the placements of one axis are priced.

    Parameters
    ----------
    cost : ConversionCost
    """

    cost: ConversionCost
    _times: dict[tuple[int, bool, int, Held],
                 _Array] = field(default_factory=dict)

    def times_s(self, spec: TensorSpec, axis: int,
                layout: Layout) -> tuple[_Array, _Array]:
        """Forward and backward times, as :meth:`ConversionCost.times_s`.

        Parameters
        ----------
        spec : TensorSpec
        axis : int
        layout : Layout
            Over the other axes, before and after; what it says of `axis`
            does not count.

        Returns
        -------
        array, array
            One row for each placement by number, one column for each that
            it is turned into; inf where that is impossible.
        """
        legal, whole = self._legal(spec, axis, layout)
        known = _moves(spec.ndim, spec.requires_grad, whole.ones)
        key = (spec.ndim, spec.requires_grad, axis, whole)
        prices = self._times.get(key)
        if prices is None:
            prices = self._times[key] = np.array([
                *(self.cost.move_time_s(m, whole, axis) for m in known.kinds),
                math.inf
            ])
        forward, backward = prices[known.forward], prices[known.backward]
        if not legal.all():
            kept = legal[:, None] & legal | _alike(spec.ndim,
                                                   spec.requires_grad)
            forward = np.where(kept, forward, np.inf)
            backward = np.where(kept, backward, np.inf)
        return forward, backward

    def _legal(self, spec: TensorSpec, axis: int,
               layout: Layout) -> tuple[npt.NDArray[np.bool_], Held]:
        """Which placements a value may turn from and into, and what the
        axis' ranks hold together."""
        every = placements(spec.ndim)
        legal = np.ones(len(every), bool)
        inner = {p.dim for p in layout[axis + 1:] if p.is_shard}
        whole = self._local(spec, axis, layout, R)
        if whole is None:
            return ~legal, Held(0.0)
        for number, own in enumerate(every):
            if own.is_shard:
                legal[number] = own.dim not in inner and self._local(
                    spec, axis, layout, own) is not None
        return legal, Held.of(whole,
                              float(spec.dtype.itemsize) / self.cost.divided)

    def _local(self, spec: TensorSpec, axis: int, layout: Layout,
               own: Placement) -> tuple[int, ...] | None:
        try:
            return local_shape(spec.shape, with_own(layout, axis, own),
                               self.cost.sizes)
        except ValueError:
            return None


@functools.lru_cache(maxsize=64)
def _moves(ndim: int, differentiable: bool, ones: int) -> _Moves:
    """Of every pair of placements of one part."""
    every = [_value(p, differentiable) for p in placements(ndim)]
    kinds: dict[Move, int] = {}
    forward = np.full((len(every), len(every)), -1, np.intp)
    backward = forward.copy()
    for i, source in enumerate(every):
        for j, target in enumerate(every):
            there = move(source, target)
            back = gradient_move(source, target) if differentiable else Move(
                kind="none")
            if source == target:
                there = back = Move(kind="none")
            if there is not None and back is not None:
                forward[i, j] = kinds.setdefault(_form(there, ones),
                                                 len(kinds))
                backward[i, j] = kinds.setdefault(_form(back, ones),
                                                  len(kinds))
    return _Moves(tuple(kinds), forward, backward)


@functools.lru_cache(maxsize=64)
def _alike(ndim: int, differentiable: bool) -> npt.NDArray[np.bool_]:
    """Pairs of placements between which nothing is to be done."""
    every = [_value(p, differentiable) for p in placements(ndim)]
    return np.array([[s == t for t in every] for s in every])


def _value(placement: Placement, differentiable: bool) -> Placement:
    """Without a gradient ``R`` and ``V`` are alike."""
    plain = not differentiable and placement.is_replicated
    return R if plain else placement


def _form(how: Move, ones: int) -> Move:
    """A move that takes as long, the same for as many as can be.

    Of dims it only counts how many are copied when they are cut or joined.
    """
    first, second = sorted(
        (d if d > ones else -1 for d in (how.source_dim, how.target_dim)),
        reverse=True)
    return Move(kind=how.kind,
                source_dim=_BEHIND if first >= 0 else -1,
                target_dim=_BEHIND if second >= 0 else -1)
