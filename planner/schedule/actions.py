"""A pipeline schedule: for each rank, the order of its actions.

Sends and receives are no actions. They follow from which stage feeds which
and from which rank runs which stage, see :mod:`planner.schedule.transfers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

from planner.ir.errors import ScheduleError

__all__ = [
    "KINDS", "Action", "Edges", "Schedule", "chain", "drop_microbatches",
    "format_rows"
]

KINDS = ("F", "B", "I", "W")
"""Forward; whole backward; gradient of the inputs; of the weights."""

Edges = tuple[tuple[int, int], ...]
"""Pairs (s, t) of stages, s < t: a value of stage s is read by stage t."""


class Action(NamedTuple):
    """What one stage does for one micro-batch.

    Parameters
    ----------
    kind : str
        ``F``, ``B``, ``I`` or ``W``; see `KINDS`.
    stage : int
    microbatch : int

    Examples
    --------
    >>> print(Action("F", 0, 3))
    0F3
    """

    kind: str
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @property
    def gives_gradient(self) -> bool:
        """Whether the stages before wait for it (``B`` and ``I``)."""
        return self.kind in "BI"


# Without slots: what is derived from a schedule is kept in its __dict__.
@dataclass(frozen=True)
class Schedule:
    """The order in which each rank works.

    Prints as, and is parsed from, the text of
    :mod:`planner.schedule.text`.

    Parameters
    ----------
    ranks : tuple of tuple of Action
        The actions of each rank, first to last.

    Examples
    --------
    >>> work = Schedule(((Action("F", 0, 0), Action("B", 0, 0)), ))
    >>> work.stages, work.microbatches, work.stage_rank
    (1, 1, (0,))
    """

    ranks: tuple[tuple[Action, ...], ...]

    def __str__(self) -> str:
        return format_rows([list(map(str, row)) for row in self.ranks])

    @property
    def actions(self) -> Iterator[Action]:
        """All actions, rank after rank."""
        for row in self.ranks:
            yield from row

    @cached_property
    def stages(self) -> int:
        """One more than the largest stage that works."""
        return max((a.stage for a in self.actions), default=-1) + 1

    @cached_property
    def microbatches(self) -> int:
        """One more than the largest micro-batch that is worked on."""
        return max((a.microbatch for a in self.actions), default=-1) + 1

    @cached_property
    def is_inference(self) -> bool:
        """Whether there are only forward actions."""
        return all(a.kind == "F" for a in self.actions)

    @cached_property
    def stage_rank(self) -> tuple[int, ...]:
        """The rank of each stage.

        Raises
        ------
        ScheduleError
            When a stage is on no rank or on several.
        """
        found: dict[int, set[int]] = {s: set() for s in range(self.stages)}
        for rank, row in enumerate(self.ranks):
            for action in row:
                found[action.stage].add(rank)
        for stage, ranks in found.items():
            if len(ranks) != 1:
                where = ", ".join(map(str, sorted(ranks))) or "none"
                raise ScheduleError(
                    f"stage {stage} is on ranks {where}; a stage's weights "
                    "are on one rank, so all of its actions have to be on "
                    "the line of that rank")
        return tuple(min(found[s]) for s in range(self.stages))


def format_rows(rows: Iterable[list[str]], *, even: bool = False) -> str:
    """Rows of cells as aligned columns, of one width if `even`."""
    cells = [row or ["."] for row in rows]
    widths = [
        max(map(len, column)) for column in zip_longest(*cells, fillvalue="")
    ]
    if even:
        widths = [max(widths, default=0)] * len(widths)
    return "\n".join(" ".join(c.ljust(w)
                              for c, w in zip(row, widths)).rstrip()
                     for row in cells)


def chain(stages: int) -> Edges:
    """Every stage feeds the next one.

    Examples
    --------
    >>> chain(3)
    ((0, 1), (1, 2))
    """
    return tuple((s, s + 1) for s in range(stages - 1))


def drop_microbatches(ranks: Iterable[Iterable[Action]],
                      microbatches: int) -> Schedule:
    """The same order for the first `microbatches` only.

    Actions wait only for actions of their own micro-batch, so what is left
    of a valid schedule is valid, and no slower.
    """
    return Schedule(
        tuple(
            tuple(a for a in row if a.microbatch < microbatches)
            for row in ranks))
