"""Plans from layouts that are chosen with what overlaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from planner.candidate import Candidate
from planner.choices import free_policies
from planner.ir.errors import InfeasiblePlan, LayoutError
from planner.search.overlap import Overlapped

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["overlapping_candidates"]


def overlapping_candidates(planning: Planning, found: Overlapped,
                           recompute: Sequence[str]) -> Iterator[Candidate]:
    """Layouts that were found, over an axis ``dp`` as is best beside them.

    Parameters
    ----------
    planning : Planning
    found : Overlapped
    recompute : sequence of str
        Block classes that run again in the backward.
    """
    for layout in found.layouts:
        mesh = layout.mesh
        policies = free_policies(mesh)
        try:
            solution = planning.search(
                mesh,
                policies,
                start=layout,
                axes=tuple(a for a, n in enumerate(mesh.names) if n == "dp"),
                fixed_rest={
                    n: layout.at_rest[n]
                    for n in planning.program.params
                })
        except (InfeasiblePlan, LayoutError):
            continue
        yield planning.priced(policies, solution.recomputing(recompute))
