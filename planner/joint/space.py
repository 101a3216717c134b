"""The combinations that the joint search looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.ir.mesh import MeshSpec

__all__ = ["SHARDINGS", "Point", "points"]

SHARDINGS = ("ddp", "zero1", "fsdp")
"""Recipes of data parallelism: what is sharded at rest."""

_SCHEDULES = (("1f1b", 1), ("zbh1", 1), ("interleaved1f1b", 2),
              ("interleaved1f1b", 4), ("zbv", 2))
_MOST_TENSOR = 16
_MOST_PARTS = 32
"""Micro-batches for each stage, beyond which the bubble is small anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination.

    Parameters
    ----------
    pp, dp, tp : int
        Sizes of the axes, outermost first.
    rows : int
        Of the batch in a micro-batch of one data-parallel rank.
    microbatches : int
    schedule : str
    chunks : int
    sharding : str
        One of `SHARDINGS`.
    recompute : bool
        Whether repeated blocks run again in the backward.
    """

    pp: int
    dp: int
    tp: int
    rows: int
    microbatches: int
    schedule: str
    chunks: int
    sharding: str
    recompute: bool

    @property
    def mesh(self) -> MeshSpec:
        return MeshSpec(("pp", "dp", "tp"), (self.pp, self.dp, self.tp))


def points(ranks: int,
           batch: int,
           blocks: int,
           *,
           fixed: Mapping[str, int] | None = None) -> Iterator[Point]:
    """All combinations for a number of ranks, in a fixed order.

    A whole batch at once on one stage is not among them: it needs no
    pipeline, and other searches know it better.

    Parameters
    ----------
    ranks : int
    batch : int
        Rows of the global batch.
    blocks : int
        Of the program: there are not more stages.
    fixed : mapping of str to int, optional
        Axes (``pp``, ``dp``, ``tp``) whose size is given.
    """
    given = fixed or {}
    for pp in _divisors(ranks):
        for tp in _divisors(ranks // pp):
            dp = ranks // pp // tp
            sizes = {"pp": pp, "dp": dp, "tp": tp}
            if tp > _MOST_TENSOR or batch % dp or any(
                    sizes[n] != s for n, s in given.items()):
                continue
            yield from _on_mesh(pp, dp, tp, batch // dp, blocks)


def _on_mesh(pp: int, dp: int, tp: int, share: int,
             blocks: int) -> Iterator[Point]:
    for rows in _divisors(share):
        count = share // rows
        if count > _MOST_PARTS * pp:
            continue
        for schedule, chunks in _SCHEDULES:
            few = count < pp if pp > 1 else schedule != "1f1b"
            if few or count == 1 or pp * chunks > blocks:
                continue
            for sharding in SHARDINGS if dp > 1 else SHARDINGS[:1]:
                for recompute in (False, True):
                    yield Point(pp=pp,
                                dp=dp,
                                tp=tp,
                                rows=rows,
                                microbatches=count,
                                schedule=schedule,
                                chunks=chunks,
                                sharding=sharding,
                                recompute=recompute)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
