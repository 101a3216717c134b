"""Why a factor graph has no legal assignment.

QuickXplain (Junker, "QuickXPlain: preferred explanations and relaxations
for over-constrained problems", 2004) over the factors that forbid
something, each test an elimination.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.ir.errors import InfeasiblePlan
from planner.search.eliminate import eliminate, fits
from planner.search.factors import Factor, FactorGraph
from planner.search.order import best_order

__all__ = ["clashing"]

_BUDGET_ENTRIES = 2**29  # about three seconds of eliminations
_OVERHEAD_ENTRIES = 10_000  # what handling one variable takes as long as


def clashing(graph: FactorGraph) -> tuple[str, ...]:
    """Variables that cannot all have a state, few of them.

    Pins (factors over one variable) are blamed before what links
    variables. Lifting any one pin that is named ends this clash (there may
    be others), unless telling the pins apart became too expensive.

    Returns
    -------
    tuple of str
        Sorted; empty when the graph is feasible or too wide to tell.
    """
    search = _Search(graph)
    hard = [f for f in graph.factors if not np.isfinite(f.table).all()]
    if not search.is_infeasible(hard):
        return ()
    pins = [f for f in hard if len(f.scope) == 1]
    links = [f for f in hard if len(f.scope) != 1]
    if search.is_infeasible(links):
        found = search.shrink([], False, links)
    else:
        found = search.shrink(links, False, pins)
    return tuple(sorted({n for f in found for n in f.scope}))


class _Search:
    """Tests subsets of factors until the budget is spent."""

    def __init__(self, graph: FactorGraph) -> None:
        self.graph = graph
        self.order = best_order(graph)
        self.left_entries = _BUDGET_ENTRIES if fits(self.order) else 0

    def is_infeasible(self, factors: Sequence[Factor]) -> bool:
        """Whether that is proven; False when the budget is spent."""
        if self.left_entries <= 0:
            return False
        self.left_entries -= (self.order.total_entries +
                              _OVERHEAD_ENTRIES * len(self.order.names))
        try:
            eliminate(FactorGraph(self.graph.variables, tuple(factors)),
                      order=self.order)
        except InfeasiblePlan:
            return True
        return False

    def shrink(self, kept: list[Factor], grown: bool,
               candidates: list[Factor]) -> list[Factor]:
        """A minimal part of `candidates` that clashes, given `kept`.

        `grown` says that `kept` has grown since it was last tested.
        """
        if grown and self.is_infeasible(kept):
            return []
        if len(candidates) <= 1:
            return candidates
        half = len(candidates) // 2
        first, second = candidates[:half], candidates[half:]
        late = self.shrink(kept + first, True, second)
        early = self.shrink(kept + late, bool(late), first)
        return early + late
