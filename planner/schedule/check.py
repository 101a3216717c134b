"""Whether a schedule can run: all of the work, once, and no deadlock."""

from __future__ import annotations

from collections.abc import Sequence

from planner.ir.errors import ScheduleError
from planner.schedule.actions import KINDS, Action, Schedule
from planner.schedule.graph import ActionGraph, build_graph

__all__ = ["check_schedule"]

_SHOWN = 6


def check_schedule(schedule: Schedule,
                   *,
                   edges: Sequence[tuple[int, int]] | None = None,
                   stages: int | None = None,
                   microbatches: int | None = None,
                   inference: bool = False) -> ActionGraph:
    """Check a schedule before anything runs.

    Every stage is on one rank; each of its micro-batches has one ``F`` and,
    unless it is for inference, then one ``B``, or one ``I`` and after it one
    ``W``. With these orders and edges every action comes to run.

    Parameters
    ----------
    schedule : Schedule
    edges : sequence of (int, int), optional
        Which stage feeds which; a chain if left out.
    stages, microbatches : int, optional
        How many there have to be; as many as the schedule names if left
        out.
    inference : bool
        Whether the schedule is for forward only.

    Returns
    -------
    ActionGraph
        Its actions in an order in which they can run.

    Raises
    ------
    ScheduleError
        With what is missing, doubled, out of order or stuck, and where.

    Examples
    --------
    >>> from planner.schedule.text import parse_schedule
    >>> len(check_schedule(parse_schedule("0F0 0B0")).actions)
    2
    """
    _check_counts(schedule, stages, microbatches)
    _ = schedule.stage_rank
    _check_work(schedule, inference)
    for rank, row in enumerate(schedule.ranks):
        _check_row(rank, row)
    graph = build_graph(schedule, edges)
    _check_progress(graph)
    return graph


def _check_counts(schedule: Schedule, stages: int | None,
                  microbatches: int | None) -> None:
    for action in schedule.actions:
        if (action.kind not in KINDS or action.stage < 0
                or action.microbatch < 0):
            raise ScheduleError(f"{action} is no action: the kinds are "
                                f"{', '.join(KINDS)}, numbers count from 0")
    for what, wanted, found in (("stages", stages, schedule.stages),
                                ("micro-batches", microbatches,
                                 schedule.microbatches)):
        if wanted is not None and wanted != found:
            raise ScheduleError(
                f"the schedule is for {found} {what}, and the program has "
                f"{wanted}; make the schedule for {wanted} {what}")


def _check_work(schedule: Schedule, inference: bool) -> None:
    found = {
        (s, m): set[str]()
        for s in range(schedule.stages)
        for m in range(schedule.microbatches)
    }
    doubled = set()
    for action in schedule.actions:
        kinds = found[action[1:]]
        if action.kind in kinds:
            doubled.add(str(action))
        kinds.add(action.kind)
    if doubled:
        raise ScheduleError(f"work is done twice: {_some(sorted(doubled))}")
    missing, clash = [], []
    for (stage, microbatch), kinds in found.items():
        if kinds != _wanted(kinds, inference):
            if inference and kinds - {"F"}:
                clash.append(f"{stage}{min(kinds - {'F'})}{microbatch}")
            elif {"B"} < kinds - {"F"}:
                clash.append(f"{stage}B{microbatch}")
            missing += [
                f"{stage}{k}{microbatch}"
                for k in sorted(_wanted(kinds, inference) - kinds)
            ]
    if missing:
        raise ScheduleError(f"work is missing: {_some(missing)}")
    if clash:
        raise ScheduleError(
            f"a schedule for inference has backward actions: {_some(clash)}"
            if inference else
            "a backward is both whole and in parts; write either B or I and "
            f"W: {_some(clash)}")


def _wanted(kinds: set[str], inference: bool) -> set[str]:
    if inference:
        return {"F"}
    return {"F", "I", "W"} if kinds & {"I", "W"} else {"F", "B"}


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(
        names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_row(rank: int, row: Sequence[Action]) -> None:
    """A backward after its forward, W after I."""
    seen: set[Action] = set()
    for action in row:
        first = {"B": "F", "I": "F", "W": "I"}.get(action.kind)
        if first is not None:
            needed = Action(first, action.stage, action.microbatch)
            if needed not in seen:
                raise ScheduleError(
                    f"rank {rank} has {action} before {needed}, from which "
                    "it takes what it works with; swap them")
        seen.add(action)


def _check_progress(graph: ActionGraph) -> None:
    rows = graph.schedule.ranks
    if not graph.is_stuck:
        return
    lines = [
        f"rank {rank} at its action {at}, {rows[rank][at]}, waits for " +
        ", ".join(map(str, _missing(rows[rank][at], graph)))
        for rank, at in enumerate(map(len, graph.numbers))
        if at < len(rows[rank])
    ]
    raise ScheduleError(
        "the schedule deadlocks: " + "; ".join(lines) +
        "; move what is waited for before what waits on those ranks")


def _missing(action: Action, graph: ActionGraph) -> list[Action]:
    """The actions that a stuck one waits for."""
    if action.kind == "F":
        kinds, stages = "F", [s for s, t in graph.edges if t == action.stage]
    else:
        kinds, stages = "BI", [t for s, t in graph.edges if s == action.stage]
    wanted = {Action(k, s, action.microbatch) for k in kinds for s in stages}
    return sorted(wanted & set(graph.schedule.actions) - set(graph.actions))
