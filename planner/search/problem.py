"""One mesh axis' layout problem: build its factor graph and solve it.

Variables are the options of every call, the hub placement of every value
that has several readers or crosses blocks, and the placement at rest of
every parameter and input. All are per block *class*: a value that thirty
blocks pass on to the next is one factor, weighted thirty times. The
layouts over the other axes are fixed, so that every table entry is the
exact price of the full layouts.
"""

from __future__ import annotations

import dataclasses
import functools
import time

from planner.ir.layouts import ProgramLayout
from planner.search.charges import add_charges
from planner.search.draft import AxisProblem, Draft
from planner.search.factors import Solution
from planner.search.readback import read_back
from planner.search.solve import solve
from planner.search.unmoved import unmoved_value
from planner.search.unrolled import iterations
from planner.search.variables import add_variables

__all__ = ["AxisProblem", "draft_of", "solve_axis"]

_SHARE = 0.1
_ROUNDING = 1e-12  # relative
_TOLERANCE = 1e-3
"""By what part of its compute layouts whose graph is too wide to eliminate
may take longer than the best."""


def draft_of(problem: AxisProblem) -> Draft:
    """The factor graph of one axis; its value is the program's price."""
    draft = Draft()
    add_variables(problem, draft)
    add_charges(problem, draft)
    return draft


def _share_of_time_s(problem: AxisProblem) -> float | None:
    """Of what is left, since other problems follow."""
    if problem.until_s == float("inf"):
        return None
    return _SHARE * max(problem.until_s - time.monotonic(), 0.0)


def solve_axis(problem: AxisProblem) -> tuple[ProgramLayout, Solution]:
    """The best layouts over one axis beside those over the others, or with
    a tolerance almost; as they are where none is better.

    Raises
    ------
    InfeasiblePlan
        When constraints leave some parameter no layout.
    """
    draft = draft_of(problem)
    graph = draft.graph()
    slack_s = problem.tolerance * draft.compute_s
    solution = solve(graph,
                     slack=slack_s or _TOLERANCE * draft.compute_s,
                     relax=slack_s > 0.0,
                     time_limit_s=_share_of_time_s(problem),
                     alike=functools.partial(iterations, problem, draft))
    # Of assignments that cost the same, which one a solver gives hangs on the
    # last digits of its sums; layouts of similar problems stay alike.
    now_s = unmoved_value(problem, draft, graph)
    enough_s = solution.value + _ROUNDING * abs(solution.value)
    if now_s <= max(enough_s, solution.bound + slack_s):
        return problem.layout, dataclasses.replace(solution, value=now_s)
    return read_back(problem, draft, solution.assignment), solution
