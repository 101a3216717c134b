"""One value and all that read it, each in the layout it asks for.

The passes make each layout of a value once, however many read it. Where
that may matter a *copy* variable says in which layout, beside the hub, the
value is made for several readers; the others pay for themselves.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from planner.ir.layout import Layout, R
from planner.rules.registry import TensorSpec
from planner.search.draft import AxisProblem, Draft
from planner.search.placed import Numbers
from planner.search.tables import Array, penalties

__all__ = ["FanOut", "Reader"]


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A variable, the placement each state asks for, the other axes'.

    `kind` is what the reader makes of the value where that decides what
    the policy adds, see :meth:`Policy.price_s`.
    """

    variable: str
    wanted: Numbers
    layout: Layout
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FanOut:
    """Charges for bringing one value to its readers.

    Parameters
    ----------
    problem : AxisProblem
    draft : Draft
    kind : str
        ``param`` or ``value``, see :meth:`Policy.price_s`.
    spec : TensorSpec
    source : str
        The variable that says how the value is held.
    made : array of placement numbers
        One for each state of `source`.
    layout : Layout
        How the value is held over the other axes.
    count : int
        How often this happens in a step.
    """

    problem: AxisProblem
    draft: Draft
    kind: str
    spec: TensorSpec
    source: str
    made: Numbers
    layout: Layout
    count: int

    def charge(self, readers: list[Reader], *, held_elsewhere: bool) -> None:
        """Add the factors.

        `held_elsewhere` says that the hub's layout has a use beside these
        readers, as for what leaves the block.
        """
        groups: dict[Layout, list[Reader]] = {}
        for reader in readers:
            groups.setdefault(self._others(reader.layout), []).append(reader)
        for layout, group in groups.items():
            shares = len(group) > 1 and (len(readers) > 2 or held_elsewhere or
                                         layout != self._others(self.layout))
            copies = self._copies(group) if shares else []
            if copies:
                self._with_copies(group, copies)
            else:
                for reader in group:
                    self.draft.add((self.source, reader.variable),
                                   self._alone_s(reader))

    def _alone_s(self, reader: Reader) -> Array:
        return self._prices_s(reader.wanted, reader.layout, reader.kind
                              or self.kind)

    def _prices_s(self, wanted: Numbers, layout: Layout, kind: str) -> Array:
        """Price of every conversion, with what the policy adds."""
        table = self.problem.tables.both_s(self.spec, self.problem.axis,
                                           self.layout, layout, self.made,
                                           wanted)
        extra = penalties(self.problem.policy, kind, self.spec, self.made,
                          wanted)
        if extra is not None:
            table = table + extra
        return table * self.count

    def _others(self, layout: Layout) -> Layout:
        """Over the other axes, as far as it makes a difference."""
        others = (p for a, p in enumerate(layout) if a != self.problem.axis)
        if self.spec.requires_grad:
            return tuple(others)
        return tuple(R if p.is_replicated else p for p in others)

    def _copies(self, group: list[Reader]) -> list[int]:
        """Placements that two readers may want and that cost something."""
        wanted = Counter(n for r in group for n in set(r.wanted.tolist()))
        often = sorted(n for n, times in wanted.items() if times > 1)
        prices = self._prices_s(np.array(often, np.intp), group[0].layout,
                                self.kind)
        return [
            n for n, column in zip(often, prices.T, strict=True)
            if (column > 0).any()
        ]

    def _with_copies(self, group: list[Reader], copies: list[int]) -> None:
        # A value has readers in its block and others, charged apart.
        names = (f"copy {self.source} {n}" for n in itertools.count())
        name = next(n for n in names if n not in self.draft.sizes)
        numbers = np.array(copies, np.intp)
        self.draft.sizes[name] = 1 + len(copies)
        prices = self._prices_s(numbers, group[0].layout, self.kind)
        none = np.zeros((len(self.made), 1))
        self.draft.add((self.source, name), np.hstack([none, prices]))
        for reader in group:
            alone = self._alone_s(reader)
            table = np.repeat(alone[:, None, :], 1 + len(copies), axis=1)
            table[:, 1:, :][:, numbers[:, None] == reader.wanted] = 0.0
            self.draft.add((self.source, name, reader.variable), table)
