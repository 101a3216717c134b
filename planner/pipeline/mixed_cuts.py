"""Where to cut between stages on devices of several kinds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["balanced_on"]

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # of the longest


def balanced_on(times_s: Array,
                sizes: Array | None = None,
                rooms: Sequence[float] = ()) -> list[int] | None:
    """Where to cut a row so that its longest part is as short as can be.

    Exact, by dynamic programming over the parts: the longest of the first
    ``k`` parts that end at ``e`` is the least, over where the last of them
    begins, of the longest before and of it.

    Parameters
    ----------
    times_s : array
        Of each piece (columns) in each part (rows).
    sizes : array, optional
        What each piece takes of each part's room.
    rooms : sequence of float
        Of each part.

    Returns
    -------
    list of int or None
        The first index of every part but the first; parts are not empty.
        None where they do not fit in their rooms.

    Examples
    --------
    >>> balanced_on(np.array([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]))
    [1]
    >>> balanced_on(np.ones((2, 4)), np.ones((2, 4)), [1.0, 3.0])
    [1]
    """
    ends = np.arange(times_s.shape[1] + 1)
    # [begin, end]: longer than nothing, else no part.
    is_part = ends[:, None] < ends
    least = np.where(ends == 0, 0.0, np.inf)
    longest = []
    for number, row in enumerate(times_s):
        own = np.where(is_part, _sums(row), np.inf)
        if sizes is not None:
            own[_sums(sizes[number]) > rooms[number]] = np.inf
        longest.append(np.maximum(least[:, None], own))
        least = longest[-1].min(axis=0)
    if not np.isfinite(least[-1]):
        return None
    cuts, end = [], len(ends) - 1
    for options in longest[:0:-1]:
        column = options[:, end]
        end = int(np.argmax(column <= column.min() * (1 + _ROUNDING)))
        cuts.append(end)
    return cuts[::-1]


def _sums(row: Array) -> Array:
    """Of all runs of a row, by their begin and end."""
    until = np.concatenate([[0.0], np.cumsum(row)])
    return until - until[:, None]
