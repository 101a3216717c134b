"""The same question asked a little differently, and what it costs then."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.candidate import Candidate
from planner.constraints import Item
from planner.ir.mesh import MeshSpec
from planner.pipeline.candidate import pipeline_candidate, priced_pipeline
from planner.pipeline.means import count_ahead
from planner.shares import with_shares

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["like", "repriced", "without"]


def without(planning: Planning, item: Item) -> Planning:
    """The same plans with one constraint less."""
    return planning.copied(constraints=planning.constraints.without(item))


def repriced(planning: Planning,
             candidates: Sequence[Candidate]) -> list[Candidate]:
    """What plans cost that were found elsewhere, say on another cluster.

    Their layouts stay; only prices are made anew.
    """
    ahead = planning
    if any(c.pipeline is not None for c in candidates):
        ahead = planning.of_program(count_ahead(planning.program))
    return [
        planning.priced(c.policies, c.solution, c.memory_price_s_per_byte)
        if c.pipeline is None else priced_pipeline(
            ahead, ahead.program, c.layout, c.pipeline, c.policies, c.mesh)
        for c in candidates
    ]


def like(planning: Planning, candidate: Candidate,
         mesh: MeshSpec) -> Candidate:
    """What follows the same policies on another mesh.

    Raises
    ------
    LayoutError, ScheduleError
        When they do not suit the mesh.
    """
    if candidate.pipeline is not None:
        spec = candidate.pipeline
        if mesh.size(spec.axis) != candidate.mesh.size(spec.axis):
            spec = dataclasses.replace(spec, cuts=())
        return pipeline_candidate(planning,
                                  spec,
                                  candidate.policies,
                                  mesh,
                                  recompute=candidate.layout.recompute)
    found = planning.candidate(
        mesh,
        candidate.policies,
        memory_price_s_per_byte=candidate.memory_price_s_per_byte,
        recompute=candidate.layout.recompute)
    shared = with_shares(planning, found) if candidate.shared else None
    return shared or found
