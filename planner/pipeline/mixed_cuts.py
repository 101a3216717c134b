"""Where to cut between stages on devices of several kinds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["balanced_on"]

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # of the longest


def balanced_on(times_s: Array) -> list[int]:
    """Where to cut a row so that its longest part is as short as can be.

    Exact, by dynamic programming over the parts: the longest of the first
    ``k`` parts that end at ``e`` is the least, over where the last of them
    begins, of the longest before and of it.

    Parameters
    ----------
    times_s : array
        Of each piece (columns) in each part (rows).

    Returns
    -------
    list of int
        The first index of every part but the first; parts are not empty.

    Examples
    --------
    >>> balanced_on(np.array([[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]))
    [1]
    """
    ends = np.arange(times_s.shape[1] + 1)
    # [begin, end]: longer than nothing, else no part.
    is_part = ends[:, None] < ends
    least = np.where(ends == 0, 0.0, np.inf)
    longest = []
    for row in times_s:
        until = np.concatenate([[0.0], np.cumsum(row)])
        own = np.where(is_part, until - until[:, None], np.inf)
        longest.append(np.maximum(least[:, None], own))
        least = longest[-1].min(axis=0)
    cuts, end = [], len(ends) - 1
    for options in longest[:0:-1]:
        column = options[:, end]
        end = int(np.argmax(column <= column.min() * (1 + _ROUNDING)))
        cuts.append(end)
    return cuts[::-1]
