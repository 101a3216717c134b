"""Variables of a factor graph that are taken for one choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.search.factors import Factor, FactorGraph, Variable

__all__ = ["Alike", "States"]

States = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Variables that are one choice.

    Parameters
    ----------
    first : mapping of str to str
        Of each such variable the one that stands for it.
    states : mapping of str to int array
        Its states, in the order of that choice's.
    """

    first: Mapping[str, str]
    states: Mapping[str, States]

    def tied(self, graph: FactorGraph) -> FactorGraph:
        """The graph with one variable for all that are one choice."""
        rank = {v.name: i for i, v in enumerate(graph.variables)}
        tables: dict[tuple[str, ...], npt.NDArray[np.float64]] = {}
        for factor in graph.factors:
            names, table = self._tied(factor)
            axes = sorted(range(len(names)), key=lambda i: rank[names[i]])
            scope = tuple(names[i] for i in axes)
            table = table.transpose(axes)
            tables[scope] = tables[scope] + table if scope in tables else table
        return FactorGraph(
            tuple(
                Variable(v.name, len(self.states.get(v.name, range(v.size))))
                for v in graph.variables
                if self.first.get(v.name, v.name) == v.name),
            tuple(Factor(s, t) for s, t in tables.items()))

    def _tied(self,
              factor: Factor) -> tuple[list[str], npt.NDArray[np.float64]]:
        table = factor.table
        for axis, name in enumerate(factor.scope):
            if name in self.states:
                table = table.take(self.states[name], axis)
        names = [self.first.get(n, n) for n in factor.scope]
        scope = list(dict.fromkeys(names))
        if len(scope) < len(names):
            # Of those that are one choice the diagonal is left.
            index = np.indices([table.shape[names.index(n)] for n in scope])
            table = table[tuple(index[scope.index(n)] for n in names)]
        return scope, table

    def expanded(self, assignment: Mapping[str, int],
                 names: Iterable[str]) -> dict[str, int]:
        """What an assignment of the tied graph says of all variables."""
        return {
            n:
            int(self.states[n][assignment[self.first[n]]])
            if n in self.states else assignment[n]
            for n in names
        }
