"""Placements by number, so that tables are taken by index.

The number of a placement does not depend on the tensor: ``R`` is 0, ``V``
1, partial sums 2, and a shard along dim `d` is ``5 + d``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from planner.ir.layout import PMAX, Layout, P, Placement, R, S, V

__all__ = [
    "Numbers", "PLAIN", "fitting", "numbered", "placement_of", "placements",
    "with_own"
]

Numbers = npt.NDArray[np.intp]

PLAIN = (R, V, P, PMAX, Placement("P", reduce="min"))
"""The placements that need no dim, in the order of their numbers."""


@functools.lru_cache(maxsize=64)
def placements(ndim: int) -> tuple[Placement, ...]:
    """Every placement of a tensor of `ndim` dims, by number."""
    return (*PLAIN, *(S(d) for d in range(ndim)))


def numbered(many: Iterable[Placement]) -> Numbers:
    """The numbers of some placements.

    Examples
    --------
    >>> numbered([R, S(1)]).tolist()
    [0, 6]
    """
    return np.array(
        [len(PLAIN) + p.dim if p.is_shard else PLAIN.index(p) for p in many],
        np.intp)


def placement_of(number: int) -> Placement:
    """The placement of a number."""
    if number < len(PLAIN):
        return PLAIN[number]
    return S(int(number) - len(PLAIN))


def with_own(layout: Sequence[Placement], axis: int, own: Placement) -> Layout:
    """A layout with another placement over one axis."""
    return (*layout[:axis], own, *layout[axis + 1:])


@functools.lru_cache(maxsize=65536)
def fitting(shape: tuple[int, ...], layout: Layout, axis: int,
            sizes: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which placements divide beside those over the other axes, by number.
    """
    fits = np.ones(len(PLAIN) + len(shape), dtype=bool)
    for dim, length in enumerate(shape):
        ranks = sizes[axis]
        for other, placement in enumerate(layout):
            if other != axis and placement.dim == dim:
                ranks *= sizes[other]
        fits[len(PLAIN) + dim] = length > 0 and length % ranks == 0
    return fits
