"""Cells that others are made of, which are laid out first.

Beside others an axis has slower links than among neighbours: its ranks are as
far apart as the ranks of all axes inside of it are many. Where experts are
spread, whose messages are large, axes are alone with the links that they have
beside others. Else those among neighbours do, which are the same for more
cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

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
    apart : callable, optional
        From the size of an axis and the ranks in a step along it to the least
        step over the same links. Left out: all links are alike.
    sizes : mapping of str to sequence of int, optional
        That each axis may have, by name, from few ranks on; else only those
        of the cells that are asked for.
    """

    def __init__(self,
                 batch: int,
                 apart: Callable[[int, int], int] | None = None,
                 sizes: Mapping[str, Sequence[int]] | None = None) -> None:
        self._batch = batch
        self._sizes = sizes or {}
        self._apart = apart or (lambda size, step: 1)
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
            axis:
            Cell(rows=rows,
                 apart=self._apart(size, step) if cell.ep > 1 else 1)._replace(
                     **{axis: size})
            for axis, size, step in zip(AXES, cell, cell.steps) if size > 1
        }
        if len(each) < 3:
            return (tuple(each.values()), )
        whole = cell._replace(rows=rows)
        pairs = ((one, whole._replace(**{axis: 1}))
                 for axis, one in each.items())
        return (tuple(each.values()), *pairs)
