"""Cells that others are made of, which are laid out first.

Alone, an axis has the links among neighbours; beside others it has no quicker
ones. So the same few tables serve all cells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from planner.joint.space import Cell

__all__ = ["Parts"]

AXES = ("ep", "cp", "tp")
"""Of a cell, in its order."""


class Parts:
    """What the axes of cells are alone, or some of them.

    Parameters
    ----------
    batch : int
        Rows of the whole batch.
    sizes : mapping of str to sequence of int, optional
        That each axis may have, by name, from few ranks on; else only those
        of the cells that are asked for.
    """

    def __init__(self,
                 batch: int,
                 sizes: Mapping[str, Sequence[int]] | None = None) -> None:
        self._batch = batch
        self._sizes = sizes or {}
        self._known: dict[tuple[Cell, int], tuple[tuple[Cell, ...], ...]] = {}

    def first(self, cell: Cell) -> list[Cell]:
        """One rank, and each axis of a cell alone among neighbours, with the
        whole batch: these tell something of most cells.

        Fewer ranks of an axis come before more, which they may rule out.
        """
        return [
            Cell(rows=self._batch),
            *(Cell(rows=self._batch)._replace(**{axis: n})
              for axis, size in zip(AXES, cell)
              for n in self._up_to(axis, size))
        ]

    def _up_to(self, axis: str, size: int) -> Iterator[int]:
        """Sizes each of which divides the next, and the last this one."""
        last = 1
        for n in self._sizes.get(axis, (size, )):
            if n > last and n % last == 0 and size % n == 0:
                yield n
                last = n

    def alone(self, cell: Cell) -> list[Cell]:
        """One rank, and each axis of a cell alone, with as many rows of a
        rank."""
        return [Cell(rows=cell.rows), *self.parted(cell, cell.rows)[0]]

    def all(self, cell: Cell) -> list[Cell]:
        """One rank, and some axes of a cell, with as many rows of a rank."""
        ways = self.parted(cell, cell.rows)
        found = dict.fromkeys(c for cells in ways for c in cells)
        return list(
            dict.fromkeys((Cell(rows=cell.rows), *(Cell(rows=c.rows)
                                                   for c in found), *found)))

    def parted(self, cell: Cell, rows: int) -> tuple[tuple[Cell, ...], ...]:
        """The ways to part the axes of a cell: each alone, or one from two.

        Without the axis of experts, over which a micro-batch is divided,
        there are as many rows less, so that messages are as large.
        """
        if (cell, rows) not in self._known:
            self._known[cell, rows] = self._parted(cell, rows)
        return self._known[cell, rows]

    def _parted(self, cell: Cell, rows: int) -> tuple[tuple[Cell, ...], ...]:
        whole = cell._replace(rows=rows)
        axes = [a for a, size in zip(AXES, cell) if size > 1]
        each = tuple(self._of(whole, [a]) for a in axes)
        if len(axes) < 3:
            return (each, )
        pairs = ((one, self._of(whole, [a for a in axes if a != axis]))
                 for axis, one in zip(axes, each, strict=True))
        return (each, *pairs)

    def _of(self, cell: Cell, axes: Collection[str]) -> Cell:
        """With some of its axes alone."""
        kept = Cell(rows=cell.rows)._replace(
            **{a: getattr(cell, a)
               for a in axes})
        if "ep" in axes or cell.rows == self._batch:
            return kept
        return kept._replace(rows=cell.rows // cell.ep)
