"""Candidates as plans, and plans as candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.candidate import Candidate
from planner.ir.pipeline import inner_mesh
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.pipeline.candidate import priced_pipeline
from planner.pipeline.means import count_ahead
from planner.search.layouts import LayoutSolution
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["candidate_of", "plan_of"]


def plan_of(program: Program, candidate: Candidate) -> Plan:
    """A candidate as a plan with its prediction."""
    prediction = {
        "step_time_s": candidate.time_s,
        "compute_s": candidate.price.compute_s,
        "recompute_s": candidate.price.recompute_s,
        "communication_s": candidate.price.communication_s,
        "optimizer_s": candidate.optimizer_s,
        "memory_bytes": float(candidate.memory.total),
        "bound_s": candidate.bound_s,
    }
    if candidate.step is not None:
        prediction["bubble_s"] = candidate.step.bubble_s
    if candidate.pipeline is not None:
        program = count_ahead(program)
    return Plan.of(program,
                   candidate.layout,
                   candidate.axes,
                   prediction,
                   mesh=candidate.mesh,
                   pipeline=candidate.pipeline)


def candidate_of(planning: Planning, plan: Plan) -> Candidate:
    """What a given plan costs, as it is.

    Raises
    ------
    LayoutError
        When the plan does not fit the program.
    """
    if plan.pipeline is None:
        layout = plan.resolve(planning.program)
        known = LayoutSolution(layout=layout,
                               value_s=float("nan"),
                               solves=0,
                               seconds=0.0)
        return planning.priced(_policies(plan, plan.mesh.names), known)
    program = count_ahead(planning.program)
    layout = plan.resolve(program)
    names = inner_mesh(plan.mesh, plan.pipeline.axis).names
    with plan.naming_file():
        return priced_pipeline(planning, program, layout, plan.pipeline,
                               _policies(plan, names), plan.mesh)


def _policies(plan: Plan, axes: tuple[str, ...]) -> list[Policy]:
    return [Policy(name=plan.axes.get(n, "plan")) for n in axes]
