"""Tables of cells that are not laid out, no entry more than it will be.

What all ranks of a cell take together for a row of the batch is no less
than what those of another cell take whose sizes divide its own and that has
as many rows or more (`Cell.is_part_of`). And what one axis costs beside a
single rank, in work that is not divided evenly and in collectives, is not
made less by another axis: two of them cost at least what both cost alone.

Memory is bounded the other way round. Layouts are those that take least time.
The more rows, the longer activations are on their way, and the less it counts
that weights are read and their gradients summed: weights are moved less, and
held by more ranks. So about as much is held for a step as where other cells
of as many rows or fewer hold it, or more, which is no proof (doc/design.md).
Activations are at best divided evenly: other layouts may keep a third of what
those over fewer ranks do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from planner.joint.between import Between
from planner.joint.parts import Parts
from planner.joint.space import Cell
from planner.joint.tables import BlockTable, BlockTimes

__all__ = ["Optimistic"]

Array = NDArray[np.float64]

_TIMES = ("forward_s", "input_s", "weight_s", "sums_s", "rerun_s")
_OF_ROWS = (*_TIMES, "saved_bytes", "kept_bytes", "transient_bytes",
            "rerun_bytes", "taken_bytes", "handed_bytes")
"""What grows with the rows of a micro-batch."""
_TIME_ROWS = (slice(len(_TIMES)), slice(len(_OF_ROWS), None))
"""Of that the times, on the weakest kind of device and on each."""

_SHIFTED = 0.005
"""Part of a step that layouts for other rows may move between blocks. On what
blocks take together, of Llama 405B and DeepSeek's 671B over one axis, lines
between any two numbers of rows were at most 0.05% too high; and what axes cost
beside those of experts, for as many rows of a rank, of the 671B 0.2%."""

_OF_STEP = ("once_s", "parameter_bytes", "gradient_bytes", "resting_bytes",
            "state_bytes", "own_bytes")
_SUMS = _TIMES.index("sums_s")
_TRANSIENT = [_OF_ROWS.index(n) for n in ("transient_bytes", "rerun_bytes")]
_ONCE, _GRADIENTS = (_OF_STEP.index(n) for n in ("once_s", "gradient_bytes"))

_HELD = 0.85
"""Part of what other cells hold that a cell does, at least. Of Llama 405B's
parameters 16 ranks along tp held 0.93 of what 8 of them do, and for half of
the rows 0.87; of Mixtral's it was 0.997."""

_NEEDED = 0.5
"""Part of what one rank needs at a time that all do together, at least: it was
0.6 of one block of Mixtral, 0.9 of those of Llama 405B."""


@dataclass(frozen=True, slots=True)
class _Whole:
    """What all ranks of a cell have together: of a row, of a step, and of
    the trained parameters of each kind of block."""

    of_rows: Array
    of_step: Array
    trained: tuple[Array, ...]

    @staticmethod
    def of(table: BlockTable) -> _Whole:
        cell = table.cell
        each = [getattr(table, n) for n in _OF_ROWS]
        each += [
            getattr(t, n) for t in table.times_on.values() for n in _TIMES
        ]
        return _Whole(
            np.array(each) * (cell.ranks / cell.rows),
            np.array([getattr(table, n) for n in _OF_STEP]) * cell.ranks,
            tuple(t * cell.ranks for t in table.trained_bytes))

    def is_like(self, other: _Whole) -> bool:
        """Whether both are of the same blocks and parameters."""
        return (self.of_rows.shape == other.of_rows.shape
                and [t.shape for t in self.trained
                     ] == [t.shape for t in other.trained])

    def times_with(self, one: _Whole) -> _Whole:
        """With the memory of another."""
        of_rows = one.of_rows.copy()
        for rows in _TIME_ROWS:
            of_rows[rows] = self.of_rows[rows]
        return replace(one, of_rows=of_rows)

    def saved_with(self, one: _Whole) -> _Whole:
        """About what rows have saved, with the rest of another."""
        of_rows = _HELD * self.of_rows
        of_rows[_TRANSIENT] = one.of_rows[_TRANSIENT]
        return replace(one, of_rows=of_rows)

    def held_with(self, one: _Whole, *, summed: bool) -> _Whole:
        """About what is held for a step, with the rest of another.

        No block holds more, over what `one` does, than all together: one
        with few parameters may be divided otherwise. Gradients are held
        where they are `summed` over micro-batches.
        """
        more = self.of_step.sum(1) / np.maximum(one.of_step.sum(1), 1e-30)
        of_step = np.minimum(_HELD * self.of_step,
                             _HELD * more[:, None] * one.of_step)
        of_step[_ONCE] = one.of_step[_ONCE]
        if not summed:
            of_step[_GRADIENTS] = one.of_step[_GRADIENTS]
        return replace(one, of_step=of_step)

    def or_more(self, other: _Whole) -> _Whole:
        """The larger of each entry."""
        trained = (self.trained if self.trained is other.trained else tuple(
            map(np.maximum, self.trained, other.trained)))
        return _Whole(np.maximum(self.of_rows, other.of_rows),
                      np.maximum(self.of_step, other.of_step), trained)


class _Told:
    """What a table tells of other cells, each found once.

    Parameters
    ----------
    whole : _Whole
        Of the table.
    least : _Whole
        With the rest of which.
    """

    def __init__(self, whole: _Whole, least: _Whole) -> None:
        self._whole, self._least = whole, least
        self._times: dict[bool, _Whole] = {}
        self._held: dict[bool, _Whole] = {}

    def times(self, *, saved: bool) -> _Whole:
        """What rows take, and about what they have saved."""
        if saved not in self._times:
            rest = (self._whole.saved_with(self._least)
                    if saved else self._least)
            self._times[saved] = self._whole.times_with(rest)
        return self._times[saved]

    def held(self, *, summed: bool) -> _Whole:
        """About what is held for a step."""
        if summed not in self._held:
            self._held[summed] = self._whole.held_with(self._least,
                                                       summed=summed)
        return self._held[summed]


@dataclass(slots=True)
class _Known:
    """What is known of a cell, from how many tables."""

    least: _Whole
    seen: int = 0
    changes: int = 0
    added: set[tuple[int, int]] = field(default_factory=set)


class Optimistic:
    """Learns tables, and makes those of other cells from them.

    Parameters
    ----------
    root : BlockTable
        Of one rank that has the whole batch, learnt first.
    between : Between, optional
        What is known of layouts for other rows.
    parts : Parts, optional
        What cells are made of; of neighbours if left out.
    """

    def __init__(self,
                 root: BlockTable,
                 between: Between | None = None,
                 parts: Parts | None = None) -> None:
        self._root, self._between = root, between
        self._made_of = parts or Parts(root.cell.rows)
        self._tables: list[tuple[Cell, _Told]] = []
        self._whole: dict[Cell, _Whole] = {}
        self._known: dict[Cell, _Known] = {}
        self._lines: dict[tuple[Cell, tuple[Cell, Cell]], _Whole] = {}
        self.learn(root)

    def learn(self, table: BlockTable) -> None:
        """Take a table into account."""
        whole = _Whole.of(table)
        if table.cell not in self._whole and (not self._whole or whole.is_like(
                self._whole[self._root.cell])):
            self._whole[table.cell] = whole
            self._tables.append((table.cell, _Told(whole, self._least)))

    def changes(self, cell: Cell) -> int:
        """How often more became known of a cell."""
        return self._of(cell).changes

    def row_s(self, cell: Cell) -> tuple[float, float]:
        """Work of all ranks for a row of the batch, and adding its gradients
        to others, at least."""
        work = self._of(cell).least.of_rows[:len(_TIMES)].sum(1)
        return float(work[:_SUMS].sum()), float(work[_SUMS])

    def table(self, cell: Cell) -> BlockTable:
        """That of a cell, at best."""
        least = self._of(cell).least
        rows = least.of_rows * (cell.rows / cell.ranks)
        step = least.of_step / cell.ranks
        columns = dict(zip(_OF_ROWS, rows)) | dict(zip(_OF_STEP, step))
        own = {n: columns[n] for n in (*_TIMES, "once_s")}
        extra = iter(rows[len(_OF_ROWS):])
        times_on = {
            device: BlockTimes(**{
                **own,
                **{
                    n: next(extra)
                    for n in _TIMES
                }
            })
            for device in self._root.times_on
        }
        return dataclasses.replace(self._root,
                                   cell=cell,
                                   trained_bytes=tuple(t / cell.ranks
                                                       for t in least.trained),
                                   times_on=times_on,
                                   **columns)

    def _of(self, cell: Cell) -> _Known:
        known = self._known.get(cell)
        if known is None:
            known = self._known[cell] = _Known(self._least)
        if known.seen < len(self._tables):
            more = known.least
            for part in self._parts(cell, known):
                more = more.or_more(part)
            known.seen = len(self._tables)
            if (more.of_rows > known.least.of_rows).any() or (
                    more.of_step > known.least.of_step).any():
                known.least, known.changes = more, known.changes + 1
        return known

    def _parts(self, cell: Cell, known: _Known) -> Iterator[_Whole]:
        for other, told in self._tables[known.seen:]:
            if other == cell:
                yield self._whole[cell]
                continue
            if other.is_part_of(cell) and self._tells(other, cell):
                yield told.times(saved=other.tells_what_is_saved(cell))
            if other.tells_what_is_held(cell):
                yield told.held(
                    summed=self._sums(cell) or other.rows == cell.rows)
        own = self._own(cell)
        if own is not None:
            yield own
        learnt = {other[:3] for other, _ in self._tables[known.seen:]}
        for rows in dict.fromkeys((self._root.cell.rows, cell.rows)):
            one = self._own(Cell(rows=rows))
            if one is None:
                continue
            for number, cells in enumerate(self._made_of.parted(cell, rows)):
                if (len(cells) < 2 or (rows, number) in known.added
                        or not self._is_told_by(cells, learnt)):
                    continue
                axes = list(self._beside_one(cells))
                if len(axes) == len(cells):
                    known.added.add((rows, number))
                    found = _together(one, axes).times_with(self._least)
                    yield found if cell.ep == 1 else _shifted(found)

    def _is_told_by(self, cells: Sequence[Cell],
                    learnt: Set[tuple[int, ...]]) -> bool:
        """Whether more may be known of some cells since tables of these axes
        were learnt."""
        return any(c[:3] in learnt for c in cells) or (1, 1, 1) in learnt

    def _beside_one(self,
                    cells: Sequence[Cell]) -> Iterator[tuple[_Whole, _Whole]]:
        """What one rank has of as many rows, and what cells have; of those
        of which both are known."""
        for cell in cells:
            one, own = self._own(Cell(rows=cell.rows)), self._own(cell)
            if one is not None and own is not None:
                yield one, own

    def _tells(self, other: Cell, cell: Cell) -> bool:
        """Whether messages of one cell copy no more than those of another.

        What is cut along the whole batch is not copied, either.
        """
        return (other.is_by_row or not cell.is_by_row or other.ranks == 1
                or not self._sums(other))

    def knows(self, cell: Cell) -> bool:
        """Whether a cell's times are known, or those of the same layouts
        for fewer rows and for more."""
        return cell in self._whole or self._around(cell) is not None

    def _around(self, cell: Cell) -> tuple[Cell, Cell] | None:
        """Cells with its layouts whose tables were learnt."""
        if self._between is None:
            return None
        found = self._between.around(cell)
        return found if self._whole.keys() >= set(found or ()) else None

    @functools.cached_property
    def _least(self) -> _Whole:
        """What one rank has that has the whole batch, divided evenly."""
        one = self._whole[self._root.cell]
        of_rows = one.of_rows.copy()
        of_rows[_TRANSIENT] *= _NEEDED
        return replace(one, of_rows=of_rows)

    def _sums(self, cell: Cell) -> bool:
        """Whether there are several micro-batches."""
        return cell.rows < self._root.cell.rows

    def _own(self, cell: Cell) -> _Whole | None:
        """What is known of a cell itself."""
        if cell in self._whole:
            return self._whole[cell]
        around = self._around(cell)
        if around is None:
            return None
        if (cell, around) not in self._lines:
            self._lines[cell, around] = self._from_around(cell, *around)
        return self._lines[cell, around]

    def _from_around(self, cell: Cell, fewer: Cell, more: Cell) -> _Whole:
        """Between what is known of fewer rows and of more."""
        assert self._between is not None
        low, high = self._whole[fewer], self._whole[more]
        found = _on_line(cell, (fewer, low), (more, high))
        if self._between.settles(cell):
            return found
        held = low.held_with(self._least, summed=self._sums(cell))
        return _shifted(found).times_with(high.saved_with(held))


def _on_line(cell: Cell, fewer: tuple[Cell, _Whole],
             more: tuple[Cell, _Whole]) -> _Whole:
    """The times of a micro-batch between two of other rows, and the memory
    of the one with more."""
    (low, low_whole), (high, high_whole) = fewer, more
    share = (cell.rows - low.rows) / (high.rows - low.rows)
    of_rows = high_whole.of_rows.copy()
    for rows in _TIME_ROWS:
        of_rows[rows] = (low_whole.of_rows[rows] * low.rows *
                         (1 - share) + high_whole.of_rows[rows] * high.rows *
                         share) / cell.rows
    return replace(high_whole, of_rows=of_rows)


def _shifted(whole: _Whole) -> _Whole:
    """Where other layouts may have moved work from one block to another:
    all blocks together still take no less, one of them may."""
    of_rows = whole.of_rows.copy()
    for rows in _TIME_ROWS:
        of_rows[rows] *= 1 - _SHIFTED
    return replace(whole, of_rows=of_rows)


def _together(one: _Whole, axes: Sequence[tuple[_Whole, _Whole]]) -> _Whole:
    """What each of some axes costs beside what one rank has to do, which
    comes before it."""
    least = functools.reduce(_Whole.or_more, (a for _, a in axes))
    of_rows = least.of_rows.copy()
    more = [np.maximum(a.of_rows - alone.of_rows, 0.0) for alone, a in axes]
    # Of memory no such thing is known.
    for rows in _TIME_ROWS:
        of_rows[rows] = (one.of_rows + sum(more))[rows]
    return replace(least, of_rows=of_rows)
