"""Prices of conversions as tables over the placements of one axis."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.cost.conversion import ConversionCost
from planner.ir.convert import move
from planner.ir.layout import Layout, Placement, R
from planner.rules.registry import TensorSpec
from planner.search.axis_moves import AxisMoves
from planner.search.placed import (PLAIN, Numbers, placement_of, placements,
                                   with_own)
from planner.search.policy import Policy

__all__ = ["ConversionTables", "Known", "penalties"]

Array = npt.NDArray[np.float64]

Known = dict[tuple[object, ...], tuple[Array, bool]]
"""Tables, and whether all of their entries are known."""


@dataclass(slots=True)
class ConversionTables:
    """Prices of conversions on one mesh, filled where they are asked for.

    Parameters
    ----------
    cost : ConversionCost
    parts : int
        The axis of micro-batches; -1 where there is none.
    whole : dict
        Of what micro-batches do not divide, which is the same for any number
        of them.
    fan_outs : dict
        What :class:`planner.search.fan_out.FanOut` found.
    """

    cost: ConversionCost
    parts: int = -1
    whole: Known = field(default_factory=dict)
    fan_outs: dict[tuple[object, ...], Any] = field(default_factory=dict)
    _all: Known = field(default_factory=dict)
    _moves: AxisMoves = field(init=False)

    def __post_init__(self) -> None:
        self._moves = AxisMoves(self.cost)

    def both_s(self, spec: TensorSpec, axis: int, source: Layout,
               target: Layout, made: Numbers, wanted: Numbers) -> Array:
        """Forward and backward times, one row for each of `made`.

        Parameters
        ----------
        spec : TensorSpec
        axis : int
        source, target : Layout
            Over the other axes; what they say of `axis` does not count.
        made, wanted : array of placement numbers
        """
        return self._filled("both", self.cost.time_s, spec, axis, source,
                            target, made, wanted)

    def forward_s(self, spec: TensorSpec, axis: int, source: Layout,
                  target: Layout, made: Numbers, wanted: Numbers) -> Array:
        """As :meth:`both_s`, of the forward alone."""
        return self._filled("forward", self._forward_s, spec, axis, source,
                            target, made, wanted)

    def _forward_s(self, spec: TensorSpec, source: Layout,
                   target: Layout) -> float:
        return self.cost.times_s(spec, source, target)[0]

    def _filled(self, what: str, price: Callable[..., float], spec: TensorSpec,
                axis: int, source: Layout, target: Layout, made: Numbers,
                wanted: Numbers) -> Array:
        key = (what, spec, axis, source[:axis], source[axis + 1:],
               target[:axis], target[axis + 1:])
        known = self._all if self._divides(axis, source,
                                           target) else self.whole
        entry = known.get(key)
        if entry is None:
            entry = known[key] = self._empty(what, spec, axis, source, target)
        table, is_full = entry
        try:
            found = table[made[:, None], wanted]
        except IndexError:
            # By parts: rare, and numbered far behind.
            most = int(max(made.max(), wanted.max()))
            table, is_full = np.pad(table, (0, most + 1 - len(table)),
                                    constant_values=np.nan), False
            known[key] = table, is_full
            found = table[made[:, None], wanted]
        if not is_full and np.isnan(found).any():
            for i in set(made.tolist()):
                for j in set(wanted.tolist()):
                    if np.isnan(table[i, j]):
                        table[i, j] = price(
                            spec, with_own(source, axis, placement_of(i)),
                            with_own(target, axis, placement_of(j)))
            found = table[made[:, None], wanted]
        return found

    def _divides(self, axis: int, source: Layout, target: Layout) -> bool:
        """Whether micro-batches have parts of a value."""
        return axis == self.parts or self.parts >= 0 and (
            source[self.parts].is_shard or target[self.parts].is_shard)

    def _empty(self, what: str, spec: TensorSpec, axis: int, source: Layout,
               target: Layout) -> tuple[Array, bool]:
        """To be filled, or full where the other axes stay as they are."""
        if with_own(source, axis, R) == with_own(target, axis, R):
            forward, backward = self._moves.times_s(spec, axis, source)
            return forward + backward if what == "both" else forward, True
        count = len(PLAIN) + spec.ndim
        return np.full((count, count), np.nan), False


def penalties(policy: Policy, kind: str, spec: TensorSpec, made: Numbers,
              wanted: Numbers) -> Array | None:
    """What a policy adds to conversions, one row for each of `made`.

    Parameters
    ----------
    policy : Policy
    kind : str
        As in :meth:`Policy.price_s`.
    spec : TensorSpec
    made, wanted : array of placement numbers

    Returns
    -------
    array or None
        None for nothing.
    """
    plain = _plain_penalties(policy, kind, spec)
    if plain is None:
        return None
    try:
        return plain[made[:, None], wanted]
    except IndexError:
        # Some by parts, which are numbered far behind.
        return np.array([[
            _penalty_s(policy, kind, spec, placement_of(i), placement_of(j))
            for j in wanted
        ] for i in made])


@functools.lru_cache(maxsize=4096)
def _plain_penalties(policy: Policy, kind: str,
                     spec: TensorSpec) -> Array | None:
    """Of all placements of one part, by number."""
    if policy.is_free:
        return None
    every = placements(spec.ndim)
    table = np.array([[_penalty_s(policy, kind, spec, i, j) for j in every]
                      for i in every])
    return table if table.any() else None


def _penalty_s(policy: Policy, kind: str, spec: TensorSpec, source: Placement,
               target: Placement) -> float:
    how = move(source, target)
    return policy.price_s(kind, spec, source, target,
                          how.kind) if how is not None else 0.0
