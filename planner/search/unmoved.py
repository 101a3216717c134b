"""What layouts cost over one axis as they are."""

from __future__ import annotations

from collections.abc import Iterator

from planner.ir.layout import Placement
from planner.rules.registry import Option
from planner.search.domain import CallDomain
from planner.search.draft import AxisProblem, Draft
from planner.search.factors import FactorGraph
from planner.search.placed import Numbers, numbered
from planner.search.tables import Array

__all__ = ["unmoved_value"]


def unmoved_value(problem: AxisProblem, draft: Draft,
                  graph: FactorGraph) -> float:
    """What the layouts cost as they are; inf where they are no choice.

    Parameters
    ----------
    problem : AxisProblem
    draft : Draft
        Of the problem.
    graph : FactorGraph
        Of the draft.
    """
    states = dict(_states(problem, draft))
    if min(states.values(), default=0) < 0:
        return float("inf")
    _add_copies(graph, states)
    return graph.value(states)


def _states(problem: AxisProblem, draft: Draft) -> Iterator[tuple[str, int]]:
    """Of all variables that layouts name; -1 where a layout is no state."""
    axis, layout = problem.axis, problem.layout
    for name, domain in draft.calls.items():
        _, block_class, label = name.split(" ", 2)
        chosen = layout.classes[block_class].calls[label]
        yield name, _option(domain, chosen.options[axis])
    for name, numbers in draft.placed.items():
        kind, _, rest = name.partition(" ")
        if kind == "whole":
            yield name, 0
        elif kind == "rest":
            yield name, _place(numbers, layout.at_rest[rest][axis])
        else:
            block_class, _, label = rest.partition(" ")
            hub = layout.classes[block_class].hubs[label]
            yield name, _place(numbers, hub[axis])


def _option(domain: CallDomain, option: Option) -> int:
    every = domain.options.options
    number = next((i for i, o in enumerate(every) if o is option), -1)
    if number < 0 and option in every:
        number = every.index(option)
    return _index(domain.legal, number)


def _place(numbers: Numbers, placement: Placement) -> int:
    return _index(numbers, int(numbered([placement])[0]))


def _index(numbers: Numbers, wanted: int) -> int:
    every = numbers.tolist()
    return every.index(wanted) if wanted in every else -1


def _add_copies(graph: FactorGraph, states: dict[str, int]) -> None:
    """The best states of the variables that layouts do not name, none of
    which meets another."""
    costs: dict[str, Array] = {}
    for factor in graph.factors:
        free = [n for n in factor.scope if n not in states]
        if free:
            own = tuple(states.get(n, slice(None)) for n in factor.scope)
            costs[free[0]] = costs.get(free[0], 0.0) + factor.table[own]
    states.update({n: int(c.argmin()) for n, c in costs.items()})
