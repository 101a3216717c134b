"""From an assignment of one axis' variables back to layouts."""

from __future__ import annotations

from collections.abc import Mapping

from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.search.draft import AxisProblem, Draft
from planner.search.facts import ClassFacts
from planner.search.placed import placement_of, with_own

__all__ = ["read_back"]


def read_back(problem: AxisProblem, draft: Draft,
              assignment: Mapping[str, int]) -> ProgramLayout:
    """The layouts with this axis set as the assignment says."""
    axis, layout = problem.axis, problem.layout
    own = {
        n: placement_of(int(numbers[assignment[n]]))
        for n, numbers in draft.placed.items()
    }
    return ProgramLayout(mesh=layout.mesh,
                         classes={
                             name:
                             _class_layout(problem, draft, assignment, name,
                                           facts)
                             for name, facts in problem.facts.classes.items()
                         },
                         at_rest={
                             name:
                             with_own(
                                 now, axis,
                                 own[f"rest {problem.facts.rest_of[name]}"])
                             for name, now in layout.at_rest.items()
                         },
                         regather=layout.regather)


def _class_layout(problem: AxisProblem, draft: Draft, assignment: Mapping[str,
                                                                          int],
                  name: str, facts: ClassFacts) -> ClassLayout:
    axis, current = problem.axis, problem.layout.classes[name]
    calls, hubs = {}, {}
    for label in facts.calls:
        variable = f"call {name} {label}"
        options = list(current.calls[label].options)
        options[axis] = draft.calls[variable].option(assignment[variable])
        calls[label] = CallLayout(options=tuple(options))
    for label, call in facts.calls.items():
        for number, value in enumerate(call.outputs):
            hubs[value.label] = calls[label].output(number)
    for label, now in current.hubs.items():
        variable = f"hub {name} {label}"
        if variable in draft.placed:
            state = assignment[variable]
            hubs[label] = with_own(
                now, axis, placement_of(int(draft.placed[variable][state])))
    return ClassLayout(calls=calls, hubs=hubs)
