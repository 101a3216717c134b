"""The combinations that the joint search looks at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.ir.mesh import MeshSpec

__all__ = ["AXES", "ORDERS", "SHARDINGS", "Cell", "Point", "Space", "divisors"]

AXES = ("pp", "dp", "ep", "cp", "tp")
"""What the joint search gives ranks to, in the usual order."""

SHARDINGS = ("ddp", "zero1", "fsdp")
"""Recipes of data parallelism: what is sharded at rest."""

_SCHEDULES = (("1f1b", 1), ("zbh1", 1), ("interleaved1f1b", 2),
              ("interleaved1f1b", 4), ("zbv", 2))
ORDERS: tuple[tuple[str, ...], ...] = (AXES, ("dp", "pp", "ep", "cp", "tp"))
"""Which axes span the slower links: stages, or data parallelism."""
_MOST_PARTS = 32
"""Micro-batches for each stage, beyond which the bubble is small anyway."""
_SHARED_PARTS = 2
"""Least micro-batches of ranks with stages that share processors."""


class Cell(NamedTuple):
    """What the layouts of blocks depend on.

    Parameters
    ----------
    ep, cp, tp : int
        Sizes of the axes that share the work of one data-parallel rank.
    rows : int
        Of the batch in a micro-batch, of one data-parallel rank.
    """

    ep: int = 1
    cp: int = 1
    tp: int = 1
    rows: int = 1

    @property
    def ranks(self) -> int:
        """That share the work of one data-parallel rank."""
        return self.ep * self.cp * self.tp

    @property
    def is_by_row(self) -> bool:
        """Whether a rank has one row at a time: what it holds of positions
        is joined and cut without copies (`ConversionCost`)."""
        return self.rows == self.ep

    @property
    def has_rows_to_divide(self) -> bool:
        """Whether ``cp`` or ``tp`` may divide what a rank has of rows."""
        return any(n > 1 and self.rows // self.ep % n == 0
                   for n in (self.cp, self.tp))

    def is_part_of(self, other: Cell) -> bool:
        """Whether all sizes divide those of `other`, which has no more rows
        at a time: these together take no less time for a row."""
        return not self.rows % other.rows and self._divides(other)

    def tells_what_is_held(self, other: Cell) -> bool:
        """Whether `other` holds about as much for a step or more. With fewer
        rows experts are divided that are whole with more."""
        return (other.ep == 1
                or self.rows <= other.rows) and self._divides(other)

    def tells_what_is_saved(self, other: Cell) -> bool:
        """Of those that it is part of: whether these have about as much for a
        row or more. More ranks may divide rows more evenly, but along tp."""
        return self.ep == self.cp == 1 or self[:3] == other[:3]

    def _divides(self, other: Cell) -> bool:
        return not (other.ep % self.ep or other.cp % self.cp
                    or other.tp % self.tp)


class Point(NamedTuple):
    """One combination.

    Parameters
    ----------
    cell : Cell
    pp, dp : int
        Stages' ranks, and data-parallel ranks.
    microbatches : int
    schedule : str
    chunks : int
    sharding : str
        One of `SHARDINGS`.
    recompute : bool
        Whether repeated blocks run again in the backward.
    order : tuple of str
        All axes, the outermost first.
    """

    cell: Cell
    pp: int
    dp: int
    microbatches: int
    schedule: str = "1f1b"
    chunks: int = 1
    sharding: str = SHARDINGS[0]
    recompute: bool = False
    order: tuple[str, ...] = AXES

    @property
    def is_staged(self) -> bool:
        """Whether it needs a schedule: stages, or several micro-batches."""
        return self.pp > 1 or self.microbatches > 1

    @property
    def adding(self) -> float:
        """Part of the micro-batches whose gradients are added to others."""
        return (self.microbatches - 1) / self.microbatches

    @property
    def sizes(self) -> dict[str, int]:
        """Of all axes, by name."""
        known = {
            "pp": self.pp,
            "dp": self.dp,
            "ep": self.cell.ep,
            "cp": self.cell.cp,
            "tp": self.cell.tp
        }
        return {n: known[n] for n in self.order}

    @property
    def mesh(self) -> MeshSpec:
        """All axes, also those of one rank."""
        return MeshSpec(self.order, tuple(self.sizes.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All combinations for a number of ranks.

    Parameters
    ----------
    ranks : int
    batch : int
        Rows of the global batch.
    blocks : int
        Of the program: there are not more stages.
    positions : int
        Of a sequence, which ``cp`` divides; 1 where there is none.
    experts : int
        Of a mixture, which ``ep`` divides; 1 where there are none.
    fixed : mapping of str to int
        Axes whose size is given.
    largest : mapping of str to int
        Axes whose size is limited.
    orders : tuple of tuple of str
        Orders of the axes, outermost first.
    links : callable, optional
        What a point's axes run over. Of orders in which that is the same
        only the first is looked at; all are if left out.
    shardings : tuple of str
    schedules : tuple of (str, int)
        With their stages on each rank.
    recompute : bool
        Whether blocks may run again in the backward.
    staged : bool, optional
        Whether there are stages, or several micro-batches; both are looked
        at if left out.
    is_shared : bool
        Whether ranks share processors. One without work leaves its part to
        the others then, so that there may be fewer micro-batches than ranks
        with stages.
    """

    ranks: int
    batch: int
    blocks: int
    positions: int = 1
    experts: int = 1
    fixed: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)
    orders: tuple[tuple[str, ...], ...] = ORDERS
    links: Callable[[Point], Hashable] | None = None
    shardings: tuple[str, ...] = SHARDINGS
    schedules: tuple[tuple[str, int], ...] = _SCHEDULES
    recompute: bool = True
    staged: bool | None = None
    is_shared: bool = False
    _unlike: dict[tuple[int, ...], tuple[tuple[str, ...],
                                         ...]] = field(default_factory=dict,
                                                       init=False,
                                                       repr=False,
                                                       compare=False)

    def cells(self) -> Iterator[Cell]:
        """Those that have points, in a fixed order.

        The fewest ranks and most rows come first, which bound the others.
        """
        yield from sorted(self._cells(),
                          key=lambda c: (c.ranks, -c.rows, c.ep, c.cp))

    def sizes(self) -> dict[str, list[int]]:
        """That each axis of a cell may have."""
        return {
            "ep": self._sizes("ep", self.experts),
            "cp": self._sizes("cp", self.positions),
            "tp": self._sizes("tp", self.ranks)
        }

    def _cells(self) -> Iterator[Cell]:
        sizes = self.sizes()
        for ep in sizes["ep"]:
            for cp in sizes["cp"]:
                for tp in sizes["tp"]:
                    for rows in divisors(self.batch):
                        cell = Cell(ep=ep, cp=cp, tp=tp, rows=rows)
                        if rows % ep == 0 and any(self.splits(cell)):
                            yield cell

    def _sizes(self, axis: str, whole: int) -> list[int]:
        """Sizes of an axis that divide what it divides and the ranks."""
        if axis in self.fixed:
            return [self.fixed[axis]]
        return [
            n for n in divisors(self.ranks)
            if whole % n == 0 and n <= self.largest.get(axis, n)
        ]

    def is_whole(self, cell: Cell) -> bool:
        """Whether a step without stages has all of its rows at once."""
        return cell.rows * self.ranks == self.batch * cell.ranks

    def splits(self, cell: Cell) -> Iterator[Point]:
        """Points of a cell that differ in their stages and micro-batches."""
        rest, left = divmod(self.ranks, cell.ranks)
        if left:
            return
        for pp in self._sizes("pp", rest):
            dp, left = divmod(rest, pp)
            count, uneven = divmod(self.batch, dp * cell.rows)
            if (left or uneven or pp > self.blocks
                    or self.fixed.get("dp", dp) != dp
                    or dp > self.largest.get("dp", dp)):
                continue
            point = Point(cell=cell, pp=pp, dp=dp, microbatches=count)
            least = min(pp, _SHARED_PARTS) if self.is_shared else pp
            if (least <= count <= _MOST_PARTS * pp
                    and self.staged in (None, point.is_staged)):
                yield point

    def count(self) -> int:
        """Of all points."""
        return sum(
            len(self._schedules(s)) * len(self._shardings(s)) *
            len(self._orders(s)) * (1 + self.recompute)
            for cell in self.cells() for s in self.splits(cell))

    def points(self, cell: Cell) -> Iterator[Point]:
        """All points of a cell, in a fixed order."""
        for way in self.ways(cell):
            yield from self.in_orders(way)

    def ways(self, cell: Cell) -> Iterator[Point]:
        """Points of a cell that differ in more than the order of axes."""
        for split in self.splits(cell):
            choices = itertools.product(self._schedules(split),
                                        self._shardings(split),
                                        (False, True)[:1 + self.recompute])
            for (schedule, chunks), sharding, recompute in choices:
                yield Point(cell=cell,
                            pp=split.pp,
                            dp=split.dp,
                            microbatches=split.microbatches,
                            schedule=schedule,
                            chunks=chunks,
                            sharding=sharding,
                            recompute=recompute,
                            order=self.orders[0])

    def in_orders(self, way: Point) -> Iterator[Point]:
        """A point with its axes in all orders."""
        for order in self._orders(way):
            yield way if order == way.order else way._replace(order=order)

    def _schedules(self, split: Point) -> list[tuple[str, int]]:
        return [
            (name, chunks) for name, chunks in self.schedules if split.pp *
            chunks <= self.blocks and (split.pp > 1 or name == "1f1b") and (
                split.pp <= split.microbatches or chunks == 1)
        ]

    def _shardings(self, split: Point) -> tuple[str, ...]:
        return self.shardings if split.dp > 1 else SHARDINGS[:1]

    def _orders(self, split: Point) -> tuple[tuple[str, ...], ...]:
        if split.pp == 1 or split.dp == 1:
            return self.orders[:1]
        if self.links is None:
            return self.orders
        key = (split.pp, split.dp, *split.cell[:3])
        if key not in self._unlike:
            found: dict[Hashable, tuple[str, ...]] = {}
            for order in self.orders:
                found.setdefault(self.links(split._replace(order=order)),
                                 order)
            self._unlike[key] = tuple(found.values())
        return self._unlike[key]


def divisors(n: int) -> list[int]:
    """All divisors, from 1 on."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})
