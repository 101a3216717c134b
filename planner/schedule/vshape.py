"""Schedules with two stages on each rank, placed in the shape of a V.

Rank r has stages r and 2p - 1 - r: the last stage is with the first, and
what crosses the bottom of the V stays on its rank.
"""

from __future__ import annotations

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule, drop_microbatches
from planner.schedule.registry import register

__all__ = ["dualpipev", "zbv"]


class _Row:
    """The actions of a rank, added by kind and chunk and counted."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.stages = (rank, 2 * ranks - 1 - rank)
        self.actions: list[Action] = []
        self.count = {(k, c): 0 for k in "FIW" for c in (0, 1)}
        self.pending: list[int] = []

    def add(self, *work: str) -> None:
        """Add the next action of each, such as ``"F0"`` (chunk 0)."""
        for kind, chunk in ((w[0], int(w[1])) for w in work):
            # B counts as I and W: it is both.
            counted = ("I", "W") if kind == "B" else (kind, )
            microbatch = self.count[counted[0], chunk]
            for k in counted:
                self.count[k, chunk] += 1
            self.actions.append(Action(kind, self.stages[chunk], microbatch))
            if kind == "I":
                self.pending.append(chunk)
            elif kind == "W":
                self.pending.remove(chunk)

    def add_weight(self) -> None:
        """Add the gradient of weights that waits longest, if any."""
        if self.pending:
            self.add(f"W{self.pending[0]}")

    def left(self, chunk: int, microbatches: int) -> int:
        return microbatches - self.count["F", chunk]


def two_chunks(name: str, chunks: int) -> None:
    """Raise ScheduleError unless a rank has two stages."""
    if chunks != 2:
        raise ScheduleError(f"{name} has two stages on each rank, placed in "
                            f"a V, and was asked for {chunks}; use chunks=2")


@register("zbv")
def zbv(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """Zero bubble on a V (Qi et al., arXiv:2401.10241, section 6)."""
    two_chunks("zbv", chunks)
    padded = max(microbatches, 2 * ranks - 1)
    return drop_microbatches(
        [_zbv_row(rank, ranks, padded) for rank in range(ranks)], microbatches)


def _zbv_row(rank: int, ranks: int, microbatches: int) -> list[Action]:
    row = _Row(rank, ranks)
    row.add(*["F0"] * (2 * (ranks - rank) - 1))
    row.add(*["F1", "F0"] * rank)
    row.add(*["F1", "I1", "W1"] * (ranks - rank))
    while row.left(1, microbatches):
        if row.left(0, microbatches):
            row.add("F0")
        row.add("I0", "W0", "F1", "I1", "W1")
    # The drain: gradients of weights wait until nobody waits for the rank.
    row.add(*["I0", "I1"] * rank)
    for _ in range(ranks - rank):
        row.add("I0")
        row.add("W0")
    while row.pending:
        row.add_weight()
    return row.actions


@register("dualpipev")
def dualpipev(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """DeepSeek's DualPipe cut in half (github.com/deepseek-ai/DualPipe).

    The forward and the backward that it runs as one overlapped pair stand
    next to each other.
    """
    two_chunks("dualpipev", chunks)
    padded = max(microbatches, 2 * ranks)
    return drop_microbatches(
        [_dualpipev_row(rank, ranks, padded) for rank in range(ranks)],
        microbatches)


def _dualpipev_row(rank: int, ranks: int, microbatches: int) -> list[Action]:
    row, after = _Row(rank, ranks), ranks - rank - 1
    row.add(*["F0"] * (2 * after))
    row.add(*["F0", "F1"] * (rank + 1))
    row.add(*["I1", "W1", "F1"] * after)
    row.add(*["F0", "B1", "F1", "B0"] * (microbatches - ranks - after))
    row.add(*["B1", "F1", "B0"] * after)
    # Half of the last backwards are whole, then gradients of weights wait.
    whole = rank + 1
    kinds = "B" * whole + "I" * (whole + after)
    chunks = "10" * (rank + 1)
    for kind, chunk in zip(kinds, chunks):
        row.add(kind + chunk)
    for kind in kinds[2 * (rank + 1):]:
        row.add_weight()
        row.add(f"{kind}0")
    while row.pending:
        row.add_weight()
    return row.actions
