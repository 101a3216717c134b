"""Shards by parts: local rearrangements around the plain collectives.

A dim in order by rank (each rank's shards of all parts, then the next
rank's) is cut and joined by the plain collectives; by part is the order
that the program knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from planner.ir.parts import overlaps, runs

__all__ = ["by_part", "by_rank", "picked", "put_back", "rows_got", "rows_sent"]


def by_rank(x: torch.Tensor, dim: int, parts: Sequence[int],
            ranks: int) -> torch.Tensor:
    """From the order by part to the order by rank.

    Parameters
    ----------
    x : Tensor
        Whole along `dim`.
    dim : int
    parts : sequence of int
        Of the dim, in proportion.
    ranks : int
    """
    length = x.shape[dim]
    return picked(x, dim, [
        run for rank in range(ranks)
        for run in runs(length, parts, ranks, rank)
    ])


def by_part(x: torch.Tensor, dim: int, parts: Sequence[int],
            ranks: int) -> torch.Tensor:
    """From the order by rank to the order by part; as :func:`by_rank`."""
    share, units = x.shape[dim] // ranks, sum(parts)
    starts = [sum(parts[:i]) * share // units for i in range(len(parts))]
    return picked(
        x, dim,
        [(rank * share + start, rank * share + start + part * share // units)
         for start, part in zip(starts, parts, strict=True)
         for rank in range(ranks)])


def picked(x: torch.Tensor, dim: int,
           places: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Runs of a dim, one after the other."""
    return torch.cat([x.narrow(dim, a, b - a) for a, b in places], dim)


def put_back(x: torch.Tensor, places: Sequence[tuple[int,
                                                     int]]) -> torch.Tensor:
    """Runs of dim 0 that come one after the other, each in its place."""
    found = x.split([b - a for a, b in places])
    order = sorted(range(len(places)), key=lambda i: places[i])
    return torch.cat([found[i] for i in order])


def rows_sent(length: int, source: Sequence[int], target: Sequence[int],
              ranks: int, rank: int) -> list[list[tuple[int, int]]]:
    """What a rank gives to each other when a dim is regrouped.

    Parameters
    ----------
    length : int
        Size of the dim, over all ranks.
    source, target : sequence of int
        Parts before and after; empty for a plain shard.
    ranks, rank : int

    Returns
    -------
    list of lists of (start, end)
        For each rank in order, places in what this one holds.
    """
    held = runs(length, source, ranks, rank)
    return [
        _within(held, overlaps(held, runs(length, target, ranks, other)))
        for other in range(ranks)
    ]


def rows_got(length: int, source: Sequence[int], target: Sequence[int],
             ranks: int, rank: int) -> list[list[tuple[int, int]]]:
    """Where a rank puts what it gets of each other, as `rows_sent`."""
    return rows_sent(length, target, source, ranks, rank)


def _within(held: Sequence[tuple[int, int]],
            found: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Places of a dim as places in what is held of it."""
    places, before = [], 0
    for start, end in held:
        places += [(before + a - start, before + b - start) for a, b in found
                   if start <= a and b <= end]
        before += end - start
    return places
