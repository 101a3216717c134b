"""Schedules from text: a line for each rank, its actions in order.

``str(schedule)`` prints what is read here.

::

    # rank 0, then rank 1
    0F0 0F1 .   .   0B0 .   0B1
    .   1F0 1B0 1F1 1B1

Between actions are blanks or commas. A dot, or nothing between two commas,
is an idle slot, and a dash a slot in which the action before goes on; both
help the eye and are not kept. ``#`` starts a comment,
and lines without anything else are skipped; a rank that does nothing has a
line with a dot. The tables that ``torch.distributed.pipelining`` writes for
schedules without communication are read as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from planner.ir.errors import ScheduleError
from planner.schedule.actions import KINDS, Action, Schedule

__all__ = ["load_schedule", "parse_schedule"]

_SLOTS = (".", "-")
_ACTION = re.compile(r"(\d+)([A-Z]+)(\d+)")


def parse_schedule(text: str, *, where: str = "schedule") -> Schedule:
    """Read a schedule from its text.

    Parameters
    ----------
    text : str
    where : str
        What error messages call the text.

    Raises
    ------
    ScheduleError
        With the line and the token that is no action.

    Examples
    --------
    >>> print(parse_schedule("0F0,,0B0  # comment"))
    0F0 0B0
    """
    ranks = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line:
            ranks.append(
                tuple(
                    _action(token, f"{where}, line {number}")
                    for token in line.replace(",", " ").split()
                    if token not in _SLOTS))
    if not ranks:
        raise ScheduleError(f"{where} is empty; write a line for each rank, "
                            "such as 0F0 0B0")
    return Schedule(tuple(ranks))


def _action(token: str, where: str) -> Action:
    match = _ACTION.fullmatch(token)
    if match is None:
        raise ScheduleError(
            f"{where}: {token!r} is no action; write stage, kind and "
            "micro-batch, such as 0F3, or . for an idle slot")
    if match[2] not in KINDS:
        raise ScheduleError(
            f"{where}: {token!r} has the unknown kind {match[2]!r}; kinds "
            "are F (forward), B (backward), I (gradient of the inputs) and W "
            "(of the weights); sends and receives are derived, not written")
    return Action(match[2], int(match[1]), int(match[3]))


def load_schedule(path: str | Path) -> Schedule:
    """Read the schedule in a text file.

    Raises
    ------
    ScheduleError
        When the file can't be read or its text is no schedule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ScheduleError(f"can't read the schedule {str(path)!r}: "
                            f"{error.strerror}") from None
    return parse_schedule(text, where=str(path))
