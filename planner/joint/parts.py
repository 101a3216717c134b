"""Cells that others are made of, which are laid out first.

Alone, an axis has the links among neighbours; beside others it has no quicker
ones. So the same few tables serve all cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
        """One rank, and each axis of a cell alone, with as many rows."""
        return [Cell(rows=cell.rows), *self.parted(cell, cell.rows)[0]]

    def all(self, cell: Cell) -> list[Cell]:
        """One rank, and some axes of a cell, with as many rows."""
        ways = self.parted(cell, cell.rows)
        return list(
            dict.fromkeys(
                (Cell(rows=cell.rows), *(c for cells in ways for c in cells))))

    def parted(self, cell: Cell, rows: int) -> tuple[tuple[Cell, ...], ...]:
        """The ways to part the axes of a cell: each alone, or one from two.
        """
        if (cell, rows) not in self._known:
            self._known[cell, rows] = self._parted(cell, rows)
        return self._known[cell, rows]

    def _parted(self, cell: Cell, rows: int) -> tuple[tuple[Cell, ...], ...]:
        each = {
            axis: Cell(rows=rows)._replace(**{axis: size})
            for axis, size in zip(AXES, cell) if size > 1
        }
        if len(each) < 3:
            return (tuple(each.values()), )
        whole = cell._replace(rows=rows)
        pairs = ((one, whole._replace(**{axis: 1}))
                 for axis, one in each.items())
        return (tuple(each.values()), *pairs)
