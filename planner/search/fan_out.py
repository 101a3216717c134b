"""One value and all that read it, each in the layout it asks for.

The passes make each layout of a value once, however many read it. Where
that may matter a *copy* variable says in which layout, beside the hub, the
value is made for several readers; the others pay for themselves.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from planner.ir.layout import Layout, R
from planner.rules.registry import TensorSpec
from planner.search.draft import FactorDraft
from planner.search.factors import Factor
from planner.search.placed import Numbers
from planner.search.policy import Policy
from planner.search.tables import Array, penalties

__all__ = ["Charges", "FanOut", "Reader"]


class Reader(NamedTuple):
    """A variable, the placement each state asks for, the other axes'.

    `kind` is what the reader makes of the value where that decides what
    the policy adds, see :meth:`Policy.price_s`.
    """

    variable: str
    wanted: Numbers
    layout: Layout
    kind: str = ""


class _Tables(Protocol):
    """Prices of conversions, as of
    :class:`planner.search.tables.ConversionTables`."""

    fan_outs: dict[tuple[object, ...], Any]

    def both_s(self, spec: TensorSpec, axis: int, source: Layout,
               target: Layout, made: Numbers, wanted: Numbers) -> Array:
        ...


class _Problem(Protocol):
    """What a fan-out asks of the problem whose graph it is part of."""

    @property
    def axis(self) -> int:
        ...

    @property
    def policy(self) -> Policy:
        ...

    @property
    def tables(self) -> _Tables:
        ...


@dataclass(slots=True)
class Charges:
    """Factors over a value's readers, copies and source, by number: the
    readers first, the source last.

    Parameters
    ----------
    readers : int
    copies : list of int
        States of each variable of copies.
    factors : list of (tuple of int, array)
    """

    readers: int
    copies: list[int] = field(default_factory=list)
    factors: list[tuple[tuple[int, ...], Array]] = field(default_factory=list)
    _times: dict[int, list[Factor]] = field(default_factory=dict)

    def add_copy(self, states: int) -> int:
        """The number of a new variable of copies."""
        self.copies.append(states)
        return self.readers + len(self.copies) - 1

    def add(self, scope: tuple[int, ...], table: Array) -> None:
        """A factor; one that is nothing everywhere is left out."""
        if table.any():
            self.factors.append((scope, table))

    def over(self, names: Sequence[str], count: int) -> list[Factor]:
        """The factors, `count` times, over variables of some names."""
        scopes = [tuple([names[i] for i in s]) for s, _ in self.factors]
        known = self._times.get(count)
        if known is not None:
            return [f.over(s) for f, s in zip(known, scopes, strict=True)]
        found = self._times[count] = [
            Factor(s, t * count)
            for s, (_, t) in zip(scopes, self.factors, strict=True)
        ]
        return found


@dataclass(slots=True, kw_only=True, eq=False)
class FanOut:
    """Charges for bringing one value to its readers.

    Parameters
    ----------
    problem : AxisProblem or Prices
    draft : FactorDraft
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

    problem: _Problem
    draft: FactorDraft[Any]
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
        found = self._charges(readers, held_elsewhere)
        names = [r.variable for r in readers]
        for states in found.copies:
            names.append(self._copy(states))
        names.append(self.source)
        self.draft.factors += found.over(names, self.count)

    def _copy(self, states: int) -> str:
        """Declare a variable of copies."""
        # A value has readers in its block and others, charged apart.
        names = (f"copy {self.source} {n}" for n in itertools.count())
        name = next(n for n in names if n not in self.draft.sizes)
        self.draft.sizes[name] = states
        return name

    def _charges(self, readers: list[Reader], held_elsewhere: bool) -> Charges:
        """Of one time, found once for all problems of a mesh that ask the
        same."""
        problem = self.problem
        known = problem.tables.fan_outs
        key = (problem.axis, problem.policy, self.kind, self.spec,
               self.made.tobytes(), self._but_own(self.layout), held_elsewhere,
               *[(r.wanted.tobytes(), self._but_own(r.layout), r.kind)
                 for r in readers])
        found: Charges | None = known.get(key)
        if found is None:
            found = known[key] = self._found(readers, held_elsewhere)
        return found

    def _but_own(self, layout: Layout) -> Layout:
        axis = self.problem.axis
        return layout[:axis] + layout[axis + 1:]

    def _found(self, readers: list[Reader], held_elsewhere: bool) -> Charges:
        found = Charges(len(readers))
        groups: dict[Layout, list[int]] = {}
        for number, reader in enumerate(readers):
            groups.setdefault(self._others(reader.layout), []).append(number)
        for layout, numbers in groups.items():
            group = [readers[n] for n in numbers]
            shares = len(group) > 1 and (len(readers) > 2 or held_elsewhere or
                                         layout != self._others(self.layout))
            copies = self._copies(group) if shares else []
            if copies:
                self._add_copies(found, numbers, group, copies)
            else:
                for number, reader in zip(numbers, group):
                    found.add((-1, number), self._alone_s(reader))
        return found

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
        return table

    def _others(self, layout: Layout) -> Layout:
        """Over the other axes, as far as it makes a difference."""
        others = self._but_own(layout)
        if self.spec.requires_grad:
            return others
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

    def _add_copies(self, found: Charges, numbers: list[int],
                    group: list[Reader], copies: list[int]) -> None:
        placements = np.array(copies, np.intp)
        name = found.add_copy(1 + len(copies))
        prices = self._prices_s(placements, group[0].layout, self.kind)
        none = np.zeros((len(self.made), 1))
        found.add((-1, name), np.hstack([none, prices]))
        for number, reader in zip(numbers, group):
            alone = self._alone_s(reader)
            table = np.repeat(alone[:, None, :], 1 + len(copies), axis=1)
            table[:, 1:, :][:, placements[:, None] == reader.wanted] = 0.0
            found.add((-1, name, number), table)
