"""Prices of conversions as tables over the placements of one axis."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planner.cost.conversion import ConversionCost
from planner.ir.convert import move
from planner.ir.layout import Layout
from planner.rules.registry import TensorSpec
from planner.search.placed import (PLAIN, Numbers, placement_of, placements,
                                   with_own)
from planner.search.policy import Policy

__all__ = ["ConversionTables", "penalties"]

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class ConversionTables:
    """Prices of conversions on one mesh, filled where they are asked for.

    Parameters
    ----------
    cost : ConversionCost
    """

    cost: ConversionCost
    _all: dict[tuple[object, ...], Array] = field(default_factory=dict)

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
        table = self._all.get(key)
        if table is None:
            count = len(PLAIN) + spec.ndim
            table = self._all[key] = np.full((count, count), np.nan)
        found = table[made[:, None], wanted]
        if np.isnan(found).any():
            for i in set(made.tolist()):
                for j in set(wanted.tolist()):
                    if np.isnan(table[i, j]):
                        table[i, j] = price(
                            spec, with_own(source, axis, placement_of(i)),
                            with_own(target, axis, placement_of(j)))
            found = table[made[:, None], wanted]
        return found


@functools.lru_cache(maxsize=4096)
def penalties(policy: Policy, kind: str, spec: TensorSpec) -> Array | None:
    """What a policy adds to every conversion; None for nothing.

    Parameters
    ----------
    policy : Policy
    kind : str
        As in :meth:`Policy.price_s`.
    spec : TensorSpec
    """
    if policy.is_free:
        return None
    every = placements(spec.ndim)
    table = np.zeros((len(every), len(every)))
    for i, source in enumerate(every):
        for j, target in enumerate(every):
            how = move(source, target)
            if how is not None:
                table[i, j] = policy.price_s(kind, spec, source, target,
                                             how.kind)
    return table if table.any() else None
