"""Free layouts that take less memory, by a price on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.candidate import Candidate

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["lighter"]

_LIGHTEST, _HEAVIEST = -3.0, 2.0
"""Powers of ten of memory prices that are tried, in steps' time for all the
memory that the quickest plan takes."""
_BISECTIONS = 5


def lighter(planning: Planning, freed: Candidate) -> Candidate:
    """The quickest free layouts that fit, by bisecting a memory price.

    The one under the heaviest price if none fits.

    Parameters
    ----------
    planning : Planning
    freed : Candidate
        The free layouts without a price on memory.
    """
    unit = freed.time_s / freed.memory.total

    def tried(power: float) -> Candidate:
        return planning.candidate(freed.mesh,
                                  freed.policies,
                                  memory_price_s_per_byte=unit * 10**power,
                                  recompute=freed.layout.recompute)

    low, high = _LIGHTEST, _HEAVIEST
    best = tried(high)
    if not planning.fits(best):
        return best
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        other = tried(middle)
        if planning.fits(other):
            high = middle
            best = min(best, other, key=planning.rank)
        else:
            low = middle
    return best
