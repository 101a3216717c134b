"""What ranks exchange between a shard of a dim and one by parts of it.

Both cut the dim into runs: a plain shard is one run, a shard by parts one
of each part. What two ranks exchange is where their runs overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["overlaps", "runs"]

Run = tuple[int, int]
"""First element and the one behind the last."""


def runs(length: int, parts: Sequence[int], ranks: int,
         rank: int) -> list[Run]:
    """The runs of a dim that one rank holds, in order.

    Parameters
    ----------
    length : int
        Size of the dim.
    parts : sequence of int
        In proportion to its parts; empty for a plain shard.
    ranks, rank : int

    Examples
    --------
    >>> runs(12, (2, 1), 2, 1)
    [(4, 8), (10, 12)]
    """
    parts = parts or (1, )
    unit = length // sum(parts)
    found, start = [], 0
    for part in parts:
        share = part * unit // ranks
        found.append((start + rank * share, start + (rank + 1) * share))
        start += part * unit
    return found


def overlaps(held: Sequence[Run], wanted: Sequence[Run]) -> list[Run]:
    """What of the runs held is in those wanted, both in order of the dim."""
    found = [(max(a, c), min(b, d)) for a, b in held for c, d in wanted]
    return sorted((a, b) for a, b in found if a < b)
