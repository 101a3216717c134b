"""Schedules with one stage on each rank, and with stages in loops.

A rank's order is a list of forwards and a list of backwards, merged: some
forwards first (the warm-up), then one of each in turn, then what is left.
Everything but the merge is the two lists and the length of the warm-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule
from planner.schedule.registry import register

__all__ = ["gpipe", "interleaved", "loopedbfs", "one_f_one_b", "zbh1"]


def merge(forwards: Sequence[Action], backwards: Sequence[Action],
          warmup: int) -> tuple[Action, ...]:
    """Forwards ahead of backwards by `warmup`, then in turn."""
    warmup = min(warmup, len(forwards))
    row = list(forwards[:warmup])
    for number, backward in enumerate(backwards):
        if warmup + number < len(forwards):
            row.append(forwards[warmup + number])
        row.append(backward)
    return tuple(row)


def split(row: Sequence[Action], delay: int) -> tuple[Action, ...]:
    """Cut backwards in two; of each the second part waits for `delay` more.
    """
    parts: list[Action] = []
    pending: list[Action] = []
    for action in row:
        if action.kind == "F":
            parts.append(action)
            continue
        parts.append(Action("I", action.stage, action.microbatch))
        pending.append(Action("W", action.stage, action.microbatch))
        if len(pending) > delay:
            parts.append(pending.pop(0))
    return (*parts, *pending)


def in_rounds(kind: str, stages: Sequence[int],
              sizes: Sequence[int]) -> list[Action]:
    """Rounds of so many micro-batches, in each the stages one by one."""
    starts = accumulate(sizes, initial=0)
    return [
        Action(kind, stage, m) for start, size in zip(starts, sizes)
        for stage in stages for m in range(start, start + size)
    ]


def loop(ranks: int, chunks: int) -> Iterator[range]:
    """The stages of each rank, dealt in turn."""
    for rank in range(ranks):
        yield range(rank, ranks * chunks, ranks)


def one_stage_each(name: str, chunks: int, instead: str) -> None:
    """Raise ScheduleError unless a rank has one stage."""
    if chunks != 1:
        raise ScheduleError(f"{name} has one stage on each rank and was asked "
                            f"for {chunks}; use {instead}, or chunks=1")


@register("gpipe")
def gpipe(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """All forwards, then all backwards (Huang et al., arXiv:1811.06965)."""
    one_stage_each("gpipe", chunks, "loopedbfs")
    return loopedbfs(ranks, microbatches, 1)


@register("1f1b")
def one_f_one_b(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """One forward, one backward (PipeDream-Flush, arXiv:2006.09503)."""
    one_stage_each("1f1b", chunks, "interleaved1f1b")
    return interleaved(ranks, microbatches, 1)


@register("loopedbfs")
def loopedbfs(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """Each stage does all micro-batches at once (Lamy-Poirier,
    arXiv:2211.05953)."""
    return Schedule(
        tuple(
            merge(in_rounds("F", stages, [microbatches]),
                  in_rounds("B", stages[::-1], [microbatches]), microbatches *
                  chunks) for stages in loop(ranks, chunks)))


@register("interleaved1f1b")
def interleaved(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """1F1B with several stages on a rank (Narayanan et al.,
    arXiv:2104.04473, section 2.2).

    Micro-batches go in rounds of as many as there are ranks, or of a few
    more where their number isn't a multiple.
    """
    return _rounds(ranks, microbatches, chunks, 1 if chunks == 1 else 2, False)


@register("zbh1")
def zbh1(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """Zero bubble with the memory of 1F1B (Qi et al., arXiv:2401.10241).

    Gradients of weights fill the gaps: rank r holds back r of them, so that
    every rank has as much in flight as the first. With several chunks the
    same is done to the interleaved order.
    """
    return _rounds(ranks, microbatches, chunks, 1, True)


def _rounds(ranks: int, microbatches: int, chunks: int, step: int,
            is_split: bool) -> Schedule:
    sizes = round_sizes(ranks, microbatches)
    rows = []
    for rank, stages in enumerate(loop(ranks, chunks)):
        warmup = step * (ranks - rank - 1) + (chunks - 1) * sizes[0]
        row = merge(in_rounds("F", stages, sizes),
                    in_rounds("B", stages[::-1], sizes), warmup)
        rows.append(split(row, rank) if is_split else row)
    return Schedule(tuple(rows))


def round_sizes(ranks: int, microbatches: int) -> list[int]:
    """As many rounds as there are with a micro-batch for every rank.

    With fewer the first rank would run dry before its next stage's input
    has come around; so what is left makes the first rounds longer.
    """
    count = max(1, microbatches // ranks)
    size, longer = divmod(microbatches, count)
    return [size + 1] * longer + [size] * (count - longer)
