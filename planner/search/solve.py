"""Minimise a factor graph: reduce, then eliminate, or branch and bound.

Connected components are solved one by one, so that one that is too wide
to eliminate does not take the others with it. What is eliminated faster
than it is reduced goes there at once.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import networkx as nx
import numpy as np

from planner.ir.errors import InfeasiblePlan
from planner.search.conflict import clashing
from planner.search.eliminate import (MAX_TABLE_ENTRIES, eliminate,
                                      eliminate_relaxed, fits)
from planner.search.factors import Factor, FactorGraph, Solution, Variable
from planner.search.milp import solve_milp
from planner.search.order import Order, best_order
from planner.search.reduce import reduce
from planner.search.tied import Alike

__all__ = ["solve"]

_ENTRIES_PER_S = 1e8  # of elimination, on the slow side
_CHEAP_ENTRIES = 50_000  # a variable; reducing takes about as long
_MANY_ENTRIES = 2**20  # more are relaxed first, to tables of these at most:
_SMALL_ENTRIES = 2**16
_ROUGH_ENTRIES = (2**14, 2**12, 2**16, 2**18, 2**20)
"""Of a table of the relaxation, which takes milliseconds. Larger tables bound
more closely as a rule, though not always; each may find the best assignment."""
_MOST_COLUMNS = 2**15  # more take the MILP many seconds
_ROUNDING = 1e-12  # relative
_NAMED = 8  # variables that an error lists


def solve(graph: FactorGraph,
          *,
          max_table_entries: int = MAX_TABLE_ENTRIES,
          time_limit_s: float | None = None,
          slack: float = 0.0,
          relax: bool = False,
          alike: Callable[[], Alike] | None = None) -> Solution:
    """Minimise a sum of factors.

    Parameters
    ----------
    graph : FactorGraph
    max_table_entries : int
        Components that need a larger table are left to the MILP.
    time_limit_s : float, optional
        For the MILP, to which a component also goes when eliminating it
        would take longer. The solution may then have a gap, and depend on
        the machine's speed.
    slack : float
        By how much the value may be above its bound, in the unit of the
        tables, where a component is too wide to eliminate. With ``inf`` it
        is only relaxed, so that the value may be infinite, for whom the
        bound is enough.
    relax : bool
        Whether that will do for other components, too.
    alike : callable, optional
        Gives variables that may be taken for one choice in a graph that is
        too wide to eliminate. Where there are any, the MILP is left out if it
        would be large, and the solution has the gap that it has.

    Raises
    ------
    InfeasiblePlan
        When no assignment is finite, naming variables that clash (also as
        its ``variables``), or when none was found in time.

    Examples
    --------
    >>> from planner.search.factors import Factor, Variable
    >>> graph = FactorGraph(
    ...     (Variable("a", 2), Variable("b", 2)),
    ...     (Factor(("a",), [0.0, 1.0]), Factor(("a", "b"), [[5, 6], [7, 2]])))
    >>> solution = solve(graph)
    >>> solution.value, dict(solution.assignment), solution.is_optimal
    (3.0, {'a': 1, 'b': 1}, True)
    """
    try:
        return _solve(graph, max_table_entries, time_limit_s, slack, relax,
                      alike)
    except InfeasiblePlan as error:
        names = clashing(graph)
        if not names:
            raise
        raise InfeasiblePlan(_explained(graph, names),
                             variables=names) from error


def _solve(graph: FactorGraph, max_table_entries: int,
           time_limit_s: float | None, slack: float, relax: bool,
           alike: Callable[[], Alike] | None) -> Solution:
    start, enough = time.perf_counter(), slack if relax else 0.0
    order = best_order(graph)
    if (order.total_entries <= _CHEAP_ENTRIES * len(graph.variables)
            and fits(order, max_table_entries)):
        return _eliminated(graph, order, max_table_entries, enough)
    if math.isfinite(slack) and not fits(order, max_table_entries):
        # Reducing takes longer, and this mostly does.
        rough = eliminate_relaxed(graph,
                                  order=order,
                                  max_table_entries=min(
                                      _ROUGH_ENTRIES[0], max_table_entries))
        if _is_within(rough, slack):
            return rough
        same = alike() if alike is not None else None
        if same is not None and same.first:
            rough = _laid_out_alike(graph, same, rough, max_table_entries,
                                    time_limit_s, slack)
            if _is_within(rough, slack) or _columns(graph) > _MOST_COLUMNS:
                return rough
    reduced = reduce(graph)
    parts = []
    for component in _components(reduced.graph):
        left_s = None
        if time_limit_s is not None:
            left_s = max(time_limit_s - (time.perf_counter() - start), 0.0)
        parts.append(
            _component(component, max_table_entries, left_s, slack, enough))
    assignment = reduced.expand({
        name: state
        for part in parts
        for name, state in part.assignment.items()
    })
    value = graph.value(assignment)
    # Sums in another order differ in their last digits.
    bound = min(value, sum(part.bound for part in parts))
    methods = sorted({part.method for part in parts}) or ["elimination"]
    return Solution(
        value=value,
        bound=bound,
        seconds=time.perf_counter() - start,
        assignment={v.name: assignment[v.name]
                    for v in graph.variables},
        method="+".join(methods),
        visited=sum(part.visited for part in parts),
        width=max((part.width for part in parts), default=-1))


def _laid_out_alike(graph: FactorGraph, alike: Alike, rough: Solution,
                    max_table_entries: int, time_limit_s: float | None,
                    slack: float) -> Solution:
    """The better of what a relaxation has found and the best in which such
    variables are one choice; the bound is the relaxation's."""
    try:
        tied = _solve(alike.tied(graph), max_table_entries, time_limit_s,
                      slack, False, None)
    except InfeasiblePlan:
        return rough
    assignment = alike.expanded(tied.assignment,
                                (v.name for v in graph.variables))
    value = graph.value(assignment)
    if value >= rough.value:
        return rough
    return dataclasses.replace(rough,
                               value=value,
                               bound=min(rough.bound, value),
                               seconds=rough.seconds + tied.seconds,
                               assignment=assignment)


def _columns(graph: FactorGraph) -> int:
    """Of the MILP, but for those of the variables' states."""
    return sum(f.table.size for f in graph.factors if len(f.scope) > 1)


def _is_within(solution: Solution, slack: float) -> bool:
    """Whether its value is that of its bound but for so much."""
    if math.isinf(slack) or math.isinf(solution.value):
        return math.isinf(slack)
    return (solution.value - solution.bound
            <= max(slack, _ROUNDING * abs(solution.value)))


def _part_of(slack: float, value: float) -> float:
    """As a relative gap, which is none where nothing is known."""
    return slack / abs(value) if slack and math.isfinite(value) else 0.0


def _eliminated(graph: FactorGraph, order: Order, max_table_entries: int,
                slack: float) -> Solution:
    """The minimum. A relaxation with small tables takes a fraction of the
    time, and often meets its bound."""
    if order.total_entries > _MANY_ENTRIES:
        rough = eliminate_relaxed(graph,
                                  order=order,
                                  max_table_entries=_SMALL_ENTRIES)
        if _is_within(rough, slack):
            return dataclasses.replace(rough,
                                       bound=min(rough.bound, rough.value))
    return eliminate(graph, order=order, max_table_entries=max_table_entries)


def _component(graph: FactorGraph, max_table_entries: int,
               time_limit_s: float | None, slack: float,
               enough: float) -> Solution:
    order = best_order(graph)
    in_time = (time_limit_s is None
               or order.total_entries <= time_limit_s * _ENTRIES_PER_S)
    if in_time and fits(order, max_table_entries):
        return _eliminated(graph, order, max_table_entries, enough)
    return _wide(graph, order, max_table_entries, time_limit_s, slack)


def _wide(graph: FactorGraph, order: Order, max_table_entries: int,
          time_limit_s: float | None, slack: float) -> Solution:
    """Branch and bound, with a relaxation in case time is short."""
    start = time.perf_counter()
    rough = _rough(graph, order, max_table_entries)
    if _is_within(rough, slack):
        return rough
    try:
        found = solve_milp(_pruned(graph, rough.value),
                           time_limit_s=time_limit_s,
                           tolerance=_part_of(slack, rough.value))
    except InfeasiblePlan:
        # With a legal assignment at hand, time was up.
        if math.isinf(rough.value):
            raise
        return rough
    better = min(found, rough, key=lambda solution: solution.value)
    return dataclasses.replace(better,
                               bound=min(max(found.bound, rough.bound),
                                         better.value),
                               seconds=time.perf_counter() - start,
                               method=found.method)


def _rough(graph: FactorGraph, order: Order,
           max_table_entries: int) -> Solution:
    """The best of a few relaxations: its assignment, and all bounds."""
    start = time.perf_counter()
    sizes = dict.fromkeys(min(n, max_table_entries) for n in _ROUGH_ENTRIES)
    best, bound = None, -math.inf
    for size in sizes:
        found = eliminate_relaxed(graph, order=order, max_table_entries=size)
        bound = max(bound, found.bound)
        if best is None or found.value < best.value:
            best = found
        if best.value - bound <= _ROUNDING * abs(best.value):
            break
    assert best is not None
    return dataclasses.replace(best,
                               bound=min(bound, best.value),
                               seconds=time.perf_counter() - start)


def _pruned(graph: FactorGraph, value: float) -> FactorGraph:
    """Without entries that no assignment as good as `value` can use.

    Prices that stand for "rather not" would otherwise set the scale of
    the program's tolerances.
    """
    if math.isinf(value):
        return graph
    lows = [float(f.table.min()) for f in graph.factors]
    spare = value - sum(lows)
    # Rounding must not take the assignment of this value away.
    spare += _ROUNDING * sum(map(abs, (value, *lows)))
    factors = (Factor(f.scope, np.where(f.table - low > spare, np.inf,
                                        f.table))
               for f, low in zip(graph.factors, lows, strict=True))
    return FactorGraph(graph.variables, tuple(factors))


def _components(graph: FactorGraph) -> Iterator[FactorGraph]:
    """Split into graphs without a common variable, in a stable order."""
    links: nx.Graph = nx.Graph()
    links.add_nodes_from(v.name for v in graph.variables)
    for factor in graph.factors:
        nx.add_path(links, factor.scope)
    groups = list(nx.connected_components(links)) or [set()]
    home = {name: i for i, group in enumerate(groups) for name in group}
    variables: list[list[Variable]] = [[] for _ in groups]
    factors: list[list[Factor]] = [[] for _ in groups]
    for variable in graph.variables:
        variables[home[variable.name]].append(variable)
    for factor in graph.factors:
        # Constants may go anywhere.
        factors[home[factor.scope[0]] if factor.scope else 0].append(factor)
    for own, over in zip(variables, factors, strict=True):
        yield FactorGraph(tuple(own), tuple(over))


def _explained(graph: FactorGraph, names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:_NAMED]))
    if len(names) > _NAMED:
        listed += f" and {len(names) - _NAMED} more"
    return (f"no assignment of {len(graph.variables)} variables is legal: "
            f"not all of these can have one of their states: {listed}; lift "
            "a pin or allow more states for one of them")
