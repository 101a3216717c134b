"""Exact presolve: a smaller graph with the same minimum, and a way back.

Repeated until nothing changes:

1. Factors are merged into one whose scope contains theirs.
2. A state all of whose entries in some factor are ``+inf`` is dropped
   (generalised arc consistency).
3. A state is dropped when another is never worse, whatever the rest does.
   The test is Goldstein's, "Efficient rotamer elimination applied to
   protein side-chains and related spin glasses", 1994: the worst cases of
   all factors, summed. It covers duplicates (the lower state stays).
4. A variable with one state left is taken out of its factors.
5. A variable is folded into its neighbours where the table that this
   leaves is no larger than those it replaces; all variables with at most
   one neighbour are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.ir.errors import InfeasiblePlan
from planner.search.factors import Factor, FactorGraph, Variable

__all__ = ["Reduced", "reduce"]

_Array = npt.NDArray[np.float64]
_Labels = npt.NDArray[np.intp]
_Scope = tuple[str, ...]

_COMPARED_ENTRIES = 2**22  # one dominance test works on this many at most


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """A folded variable: what it costs, given the states of its scope."""

    name: str
    scope: _Scope
    table: _Array
    labels: tuple[_Labels, ...]

    def best(self, assignment: Mapping[str, int]) -> int:
        """The best original state, given original states of the others."""
        at = tuple(
            int(np.searchsorted(labels, assignment[name]))
            for name, labels in zip(self.scope[1:], self.labels[1:]))
        costs = np.moveaxis(self.table, 0, -1)[at]
        return int(self.labels[0][costs.argmin()])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reduced:
    """A smaller graph and what is needed to undo the reduction.

    Parameters
    ----------
    graph : FactorGraph
        Has the same minimum; its variables keep their names, but have
        fewer states, numbered anew.
    labels : mapping of str to array
        The original state of each state that is left.
    folds : tuple
        Variables that are gone, in the order in which they went.
    """

    graph: FactorGraph
    labels: Mapping[str, _Labels]
    folds: tuple[_Fold, ...]

    def expand(self, assignment: Mapping[str, int]) -> dict[str, int]:
        """An assignment of the original graph, of the same value."""
        full = {
            v.name: int(self.labels[v.name][assignment[v.name]])
            for v in self.graph.variables
        }
        for fold in reversed(self.folds):
            full[fold.name] = fold.best(full)
        return full


def reduce(graph: FactorGraph) -> Reduced:
    """Shrink a graph without changing its minimum.

    Raises
    ------
    InfeasiblePlan
        When a variable is left without a state.

    Examples
    --------
    >>> graph = FactorGraph(
    ...     (Variable("a", 3), Variable("b", 2)),
    ...     (Factor(("a", "b"), [[1, np.inf], [2, 0], [3, 4]]), ))
    >>> reduced = reduce(graph)
    >>> len(reduced.graph.variables), reduced.expand({})
    (0, {'b': 1, 'a': 1})
    """
    work = _Work(graph)
    pending = dict.fromkeys(v.name for v in graph.variables)
    while pending:
        changed: dict[str, None] = {}
        for name in sorted(pending, key=work.rank.__getitem__):
            if name in work.labels:
                changed.update(dict.fromkeys(work.visit(name)))
        pending = changed
    return work.result()


class _Work:
    """The graph while it shrinks: tables by scope, states by variable.

    Scopes are sorted by the variables' order in the graph, so that tables
    over the same variables meet under one key.
    """

    def __init__(self, graph: FactorGraph) -> None:
        names = [v.name for v in graph.variables]
        self.rank = {name: i for i, name in enumerate(names)}
        self.labels = {v.name: np.arange(v.size) for v in graph.variables}
        self.tables: dict[_Scope, _Array] = {}
        self.scopes: dict[str, dict[_Scope, None]] = {n: {} for n in names}
        self.folds: list[_Fold] = []
        for factor in graph.factors:
            self.add(factor.scope, factor.table)

    def add(self, scope: _Scope, table: _Array) -> None:
        """Add a factor, merged with the one over the same variables."""
        axes = sorted(range(len(scope)), key=lambda i: self.rank[scope[i]])
        scope, table = tuple(scope[i] for i in axes), table.transpose(axes)
        if scope in self.tables:
            table = self.tables[scope] + table
        self.tables[scope] = table
        for name in scope:
            self.scopes[name][scope] = None

    def pop(self, scope: _Scope) -> _Array:
        for name in scope:
            del self.scopes[name][scope]
        return self.tables.pop(scope)

    def visit(self, name: str) -> set[str]:
        """Shrink around one variable; the variables that this may help."""
        around = {n for scope in self.scopes[name] for n in scope}
        self._absorb(name)
        shrunk = self._keep(name, self._supported(name))
        shrunk |= self._keep(name, self._undominated(name))
        folded = self._settle(name) or self._fold(name)
        return around - {name} if shrunk or folded else set()

    def _absorb(self, name: str) -> None:
        """Merge each factor into the smallest that contains its scope."""
        for small in sorted(self.scopes[name], key=len):
            larger = [
                s for s in self.scopes[name]
                if len(s) > len(small) and set(small) <= set(s)
            ]
            if larger:
                into = min(larger, key=lambda s: (self.tables[s].size, s))
                table = self.pop(small)
                shape = [
                    len(self.labels[n]) if n in small else 1 for n in into
                ]
                self.tables[into] = self.tables[into] + table.reshape(shape)

    def _supported(self, name: str) -> npt.NDArray[np.bool_]:
        """Which states have a finite entry in every factor."""
        keep = np.ones(len(self.labels[name]), dtype=bool)
        for scope in self.scopes[name]:
            keep &= np.isfinite(self._flat(scope, name).min(axis=1))
        if not keep.any():
            raise InfeasiblePlan(
                f"no state of {name!r} is legal with any state of its "
                f"neighbours {self._around(name)}; allow more states")
        return keep

    def _undominated(self, name: str) -> npt.NDArray[np.bool_]:
        """Which states no other one can always replace."""
        count = len(self.labels[name])
        keep = np.ones(count, dtype=bool)
        flats = [self._flat(scope, name) for scope in self.scopes[name]]
        if count == 1 or any(count * f.size > _COMPARED_ENTRIES
                             for f in flats):
            return keep
        worst = sum((_worst_loss(f) for f in flats), np.zeros((count, count)))
        np.fill_diagonal(worst, np.inf)
        # One at a time and from above, so that of equals the lowest stays.
        for state in reversed(range(count)):
            keep[state] = not (worst[keep, state] <= 0).any()
        return keep

    def _settle(self, name: str) -> bool:
        """Take out a variable with one state, which links nothing."""
        if len(self.labels[name]) > 1:
            return False
        for scope in list(self.scopes[name]):
            axis = scope.index(name)
            table = self.pop(scope).squeeze(axis)
            self.add(scope[:axis] + scope[axis + 1:], table)
        labels = (self.labels.pop(name), )
        self.folds.append(_Fold(name, (name, ), np.zeros(1), labels))
        del self.scopes[name]
        return True

    def _fold(self, name: str) -> bool:
        """Eliminate a variable where that makes the tables no larger."""
        scopes = list(self.scopes[name])
        rest = self._around(name)
        scope = (name, *rest)
        sizes = [len(self.labels[n]) for n in scope]
        before = sum(self.tables[s].size for s in scopes)
        if len(rest) > 1 and math.prod(sizes[1:]) > before:
            return False
        table = np.zeros(sizes)
        for s in scopes:
            table = table + self._spread(s, scope)
            self.pop(s)
        labels = tuple(self.labels[n] for n in scope)
        self.folds.append(_Fold(name, scope, table, labels))
        del self.labels[name], self.scopes[name]
        self.add(rest, table.min(axis=0))
        return True

    def _around(self, name: str) -> _Scope:
        """The neighbours of a variable, in order."""
        found = {n for scope in self.scopes[name] for n in scope} - {name}
        return tuple(sorted(found, key=self.rank.__getitem__))

    def _flat(self, scope: _Scope, name: str) -> _Array:
        """A table as a matrix, with one row per state of a variable."""
        table = np.moveaxis(self.tables[scope], scope.index(name), 0)
        return table.reshape(table.shape[0], -1)

    def _spread(self, scope: _Scope, wide: _Scope) -> _Array:
        """A table with its axes as in `wide`, 1 where it has none."""
        table = self.tables[scope].transpose(
            [scope.index(n) for n in wide if n in scope])
        return table.reshape(
            [len(self.labels[n]) if n in scope else 1 for n in wide])

    def _keep(self, name: str, keep: npt.NDArray[np.bool_]) -> bool:
        """Drop the other states; whether there were any."""
        if keep.all():
            return False
        self.labels[name] = self.labels[name][keep]
        for scope in self.scopes[name]:
            self.tables[scope] = np.compress(keep,
                                             self.tables[scope],
                                             axis=scope.index(name))
        return True

    def result(self) -> Reduced:
        left = sorted(self.labels, key=self.rank.__getitem__)
        variables = tuple(Variable(n, len(self.labels[n])) for n in left)
        factors = tuple(Factor(s, t) for s, t in self.tables.items())
        return Reduced(graph=FactorGraph(variables, factors),
                       labels={n: self.labels[n]
                               for n in left},
                       folds=tuple(self.folds))


def _worst_loss(flat: _Array) -> _Array:
    """What taking the row's state for the column's can cost at most.

    Contexts in which the column's state is not legal do not count.
    """
    # No inf is taken from another.
    finite = np.isfinite(flat)
    known = np.where(finite, flat, 0.0)
    loss = known[:, None, :] - known[None, :, :]
    loss[~np.broadcast_to(finite[:, None, :], loss.shape)] = np.inf
    loss[~np.broadcast_to(finite[None, :, :], loss.shape)] = -np.inf
    return loss.max(axis=2)
