"""What a search finds when the same is asked for several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.candidate import Candidate
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.planning import Planning

__all__ = ["Tried", "search_or_why"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was found for one size.

    Parameters
    ----------
    planning : Planning
        For that size.
    found : tuple of Candidate
        Best first; none where nothing was legal, or nothing was tried.
    reason : str
        Why there is none.
    """

    planning: Planning
    found: tuple[Candidate, ...] = ()
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether some plan keeps the memory limit."""
        return bool(self.found) and self.planning.fits(self.found[0])


def search_or_why(
        planning: Planning,
        meshes: Sequence[MeshSpec]) -> tuple[tuple[Candidate, ...], str]:
    """The candidates over some meshes, or why there is none."""
    try:
        found = planning.candidates(meshes)
        if not found:
            planning.check_fits(found)
    except InfeasiblePlan as error:
        return (), str(error)
    return tuple(found), ""
