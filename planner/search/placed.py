"""Placements by number, so that tables are taken by index.

The number of a placement does not depend on the tensor: ``R`` is 0, ``V``
1, partial sums 2, and a shard along dim `d` is ``5 + d``. Shards by parts
are numbered behind all of those, as they are met.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from planner.ir.layout import PMAX, Layout, P, Placement, R, S, V, local_shape

__all__ = [
    "Numbers", "PLAIN", "fits", "numbered", "placement_of", "placements",
    "with_own"
]

Numbers = npt.NDArray[np.intp]

PLAIN = (R, V, P, PMAX, Placement("P", reduce="min"))
"""The placements that need no dim, in the order of their numbers."""

_MOST_DIMS = 64
"""No tensor of torch has more."""

_FIRST_BY_PARTS = len(PLAIN) + _MOST_DIMS
_BY_PARTS: list[Placement] = []
_NUMBERING = threading.Lock()


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
    return np.array([_number(p) for p in many], np.intp)


def _number(placement: Placement) -> int:
    if placement.parts:
        with _NUMBERING:
            if placement not in _BY_PARTS:
                _BY_PARTS.append(placement)
            return _FIRST_BY_PARTS + _BY_PARTS.index(placement)
    if placement.is_shard:
        return len(PLAIN) + placement.dim
    return PLAIN.index(placement)


def placement_of(number: int) -> Placement:
    """The placement of a number."""
    if number < len(PLAIN):
        return PLAIN[number]
    if number >= _FIRST_BY_PARTS:
        return _BY_PARTS[number - _FIRST_BY_PARTS]
    return S(int(number) - len(PLAIN))


def with_own(layout: Sequence[Placement], axis: int, own: Placement) -> Layout:
    """A layout with another placement over one axis."""
    return (*layout[:axis], own, *layout[axis + 1:])


def fits(shape: tuple[int, ...], layout: Layout, axis: int,
         sizes: tuple[int, ...], numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Which of some placements divide beside those over the other axes."""
    plain = _fitting(shape, layout, axis, sizes)
    try:
        return plain[numbers]
    except IndexError:
        # Some by parts, which are numbered far behind.
        return np.array([
            plain[n] if n < len(plain) else _divides(
                shape, with_own(layout, axis, placement_of(n)), sizes)
            for n in numbers
        ], bool)


@functools.lru_cache(maxsize=65536)
def _fitting(shape: tuple[int, ...], layout: Layout, axis: int,
             sizes: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The same of every placement of one part, by number."""
    found = np.ones(len(PLAIN) + len(shape), dtype=bool)
    for dim, length in enumerate(shape):
        ranks = sizes[axis]
        for other, placement in enumerate(layout):
            if other != axis and placement.dim == dim:
                ranks *= sizes[other]
        found[len(PLAIN) + dim] = length > 0 and length % ranks == 0
    return found


def _divides(shape: tuple[int, ...], layout: Layout,
             sizes: tuple[int, ...]) -> bool:
    try:
        local_shape(shape, layout, sizes)
    except ValueError:
        return False
    return True
