"""Iterations of a loop that a model unrolls are laid out alike.

A loop over chunks of a sequence (linear attention) leaves a call for each line
and chunk, whose graph is too wide to eliminate. With one choice for all runs of
a line there are as few variables as the loop has lines. What is found so is an
assignment of the whole graph; how far it is from the best, a bound on that
tells.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import fx

from planner.ir.program import source_of
from planner.search.domain import CallDomain
from planner.search.draft import AxisProblem, Draft
from planner.search.facts import ClassFacts
from planner.search.tied import Alike, States

__all__ = ["iterations"]

_LEAST = 8
"""Runs of a line that make a loop."""


def iterations(problem: AxisProblem, draft: Draft) -> Alike:
    """Calls of the same line with operands of the same lines, and values that
    these give, where there are many.

    Parameters
    ----------
    problem : AxisProblem
    draft : Draft
        Of the problem, with its variables.
    """
    groups: dict[Hashable, list[str]] = {}
    states: dict[str, list[Hashable]] = {}
    for name, facts in problem.facts.classes.items():
        for key, variable, own in _class_variables(draft, name, facts):
            groups.setdefault(key, []).append(variable)
            states[variable] = own
    first: dict[str, str] = {}
    chosen: dict[str, States] = {}
    for group in groups.values():
        common = set.intersection(*(set(states[n]) for n in group))
        if len(group) < _LEAST or not common:
            continue
        wanted = [s for s in dict.fromkeys(states[group[0]]) if s in common]
        for variable in group:
            first[variable] = group[0]
            chosen[variable] = np.array(
                [states[variable].index(s) for s in wanted])
    return Alike(first=first, states=chosen)


def _class_variables(
        draft: Draft, name: str,
        facts: ClassFacts) -> Iterable[tuple[Hashable, str, list[Hashable]]]:
    """Key, variable, and what each of its states means."""
    for label, call in facts.calls.items():
        key = (name, _line(call.node),
               tuple(map(_line, call.node.all_input_nodes)))
        variable = f"call {name} {label}"
        yield key, variable, _meanings(draft.calls[variable])
        for number, value in enumerate(call.outputs):
            hub = f"hub {name} {value.label}"
            if hub in draft.placed:
                yield (*key, number), hub, draft.placed[hub].tolist()


def _line(node: fx.Node) -> Hashable:
    return node.op, str(node.target) if node.op != "placeholder" else "", \
        source_of(node)


def _meanings(domain: CallDomain) -> list[Hashable]:
    columns: list[Sequence[Any]] = [
        *(numbers.tolist() for numbers in (*domain.inputs, *domain.outputs)),
        [domain.options.lowerings[i] for i in domain.legal]
    ]
    return list(zip(*columns, strict=True))
