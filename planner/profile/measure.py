"""Measure points one by one, all ranks together."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from planner.profile.clock import (SHARED_S, Clock, HostClock, clock_of,
                                   samples_after, samples_among)
from planner.profile.collectives import (between_runner, collective_runner,
                                         messages_runner, overlap_runner,
                                         straggling_runner)
from planner.profile.job import Job
from planner.profile.operations import OPERATIONS, others_runner, runner
from planner.profile.others import (allocator_ratio, call_runner,
                                    dispatch_runner, optimizer_runner,
                                    view_runner)
from planner.profile.point import COLLECTIVE_KINDS, Point
from planner.profile.store import Measured, Store

__all__ = ["Outcome", "measure_points"]

_ROUNDS = 8
"""In each of which all points have their turn: a moment in which others keep
the machine busy is then not the whole of what is known of a point."""
_TRIMMED = 0.2
"""Share of the rounds that is left out at either end."""
_FEWEST, _MOST = 3, 30
"""Samples of a point in a round."""
_MOST_CALLS = 2000
_TURNS = 6
"""Collectives that one sample has at least."""
_LONG_S = 0.1
"""From here on a sample is not taken more often than it must be."""
_SHARE = 0.7
"""Of the budget for samples; the rest is for making operands, warming up."""
_SLOWEST_S = 1.0
_QUICKEST_S = 0.004
"""Bounds of the time that the samples of one point take in all rounds."""
_ALLOCATOR_ELEMENTS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run has done.

    Parameters
    ----------
    known : mapping
        All that is measured by now, by point.
    missing : tuple of Point
        What the budget did not reach.
    refused : mapping
        Points that can't run here, with what they say.
    """

    known: Mapping[Point, Measured]
    missing: tuple[Point, ...]
    refused: Mapping[Point, str]


def measure_points(points: Sequence[Point],
                   job: Job,
                   store: Store | None,
                   *,
                   budget_s: float,
                   refresh: bool = False) -> Outcome:
    """Measure what is not known yet, in rounds, until the time is over.

    Parameters
    ----------
    points : sequence of Point
        The same on all ranks.
    job : Job
    store : Store or None
        Of the first rank; others pass None.
    budget_s : float
        No point is begun after so many seconds.
    refresh : bool
        Measure what is known too.
    """
    start = time.monotonic()
    kept = job.first(store.all() if store is not None else {})
    known = {} if refresh else {
        p: kept[p.row]
        for p in points if p.row in kept
    }
    refused: dict[Point, str] = {}
    left = [p for p in points if p not in known]
    each_s = min(max(_SHARE * budget_s / max(len(left), 1), _QUICKEST_S),
                 _SLOWEST_S)
    meter = _Meter(job, each_s / _ROUNDS)
    rounds: dict[Point, list[Measured]] = {p: [] for p in left}
    with tqdm(left * _ROUNDS,
              desc="measuring",
              unit=" points",
              file=sys.stderr,
              leave=False,
              disable=None if job.is_first else True) as bar:
        for point in bar:
            # Ranks must stop at the same point.
            if job.largest(time.monotonic() - start) > budget_s:
                break
            if point in refused:
                continue
            if not bar.disable:
                bar.set_postfix_str(str(point), refresh=False)
            try:
                rounds[point].append(meter.measured(point))
            except _Refused as error:
                refused[point] = str(error)
                continue
            known[point] = _mean(rounds[point])
            if store is not None:
                store.put(point, known[point])
    missing = tuple(p for p in points if p not in known and p not in refused)
    return Outcome(known=known, missing=missing, refused=refused)


def _mean(rounds: Sequence[Measured]) -> Measured:
    """What a step of many kernels takes of each: neither the best moments
    alone nor the usual ones."""
    found = sorted(m.median for m in rounds)
    left_out = int(_TRIMMED * len(found))
    kept = found[left_out:len(found) - left_out]
    return Measured(median=statistics.mean(kept),
                    count=sum(m.count for m in rounds))


class _Refused(Exception):
    """A point that does not run on some rank."""


class _Meter:
    """Runs points on all ranks at once; the slowest rank counts."""

    def __init__(self, job: Job, each_s: float) -> None:
        self.job = job
        self.each_s = each_s
        self.clock = clock_of(job.device, shared=job.shares_processors)
        self.others = others_runner(job.device)

    def measured(self, point: Point) -> Measured:
        if point.kind == "allocator":
            ratio = self._together(
                lambda: allocator_ratio(self.job.device, _ALLOCATOR_ELEMENTS))
            return Measured(median=self.job.largest(ratio), count=1)
        run = self._together(lambda: self._warm(point))
        host = point.kind == "dispatch"
        clock = HostClock() if host else self.clock
        alone = point.groups is None
        between = self._between(point) if run else None
        # What goes between is measured alone as well.
        once_s = self.job.largest(
            self._once_s(run, clock, alone) +
            (1 if alone else 2) * self._once_s(between, clock, alone))
        # Ranks that wait for each other do so for very different times;
        # what counts in a step of many collectives is the mean.
        shortest_s = clock.shortest_s if alone else max(
            clock.shortest_s, SHARED_S)
        fewest = 1 if alone or once_s > _LONG_S else _TURNS
        calls = min(max(round(shortest_s / once_s), fewest), _MOST_CALLS)
        sample_s = calls * once_s
        count = min(
            max(round(self.each_s / sample_s),
                _FEWEST if sample_s < _LONG_S else 1), _MOST)
        self.job.largest(0.0)
        if run is None:
            found = [0.0]
        elif between is None:
            found = clock.samples(run, count=count, calls=calls, ahead=alone)
        elif alone:
            found = samples_among(between, run, count=count, calls=calls)
        else:
            found = samples_after(between,
                                  run,
                                  clock,
                                  count=count,
                                  calls=calls)
        median = self.job.largest(statistics.median(found))
        del run
        gc.collect(0)
        return Measured(median=median, count=count)

    def _between(self, point: Point) -> Callable[[], Any] | None:
        """What goes before each call, where it makes a difference."""
        if not isinstance(self.clock, HostClock):
            return None
        if point.groups is None:
            return self.others
        if point.kind in COLLECTIVE_KINDS:
            return between_runner(self.job)
        return None

    def _warm(self, point: Point) -> Callable[[], Any] | None:
        """What runs a point, after it ran."""
        run = self._runner(point)
        if run is not None:
            run()
        return run

    def _runner(self, point: Point) -> Callable[[], Any] | None:
        if point.kind in OPERATIONS:
            return runner(point, self.job.device)
        if point.kind in COLLECTIVE_KINDS:
            return collective_runner(point, self.job)
        if point.kind == "messages":
            return messages_runner(point, self.job)
        if point.kind.startswith("overlap_"):
            return overlap_runner(point, self.job)
        if point.kind.startswith("straggling_"):
            return straggling_runner(point, self.job)
        if point.kind == "dispatch":
            return dispatch_runner(self.job.device)
        if point.kind == "view":
            return view_runner(self.job.device)
        if point.kind == "call":
            return call_runner(point, self.job.device)
        return optimizer_runner(point, self.job.device)

    @staticmethod
    def _once_s(run: Callable[[], Any] | None, clock: Clock,
                alone: bool) -> float:
        if run is None:
            return 0.0
        # Another warm-up, whose time is known.
        return max(clock.samples(run, count=1, calls=1, ahead=alone)[0], 1e-7)

    def _together(self, step: Callable[[], Any]) -> Any:
        """The result of `step`, or the refusal of any rank on all."""
        message, result = "", None
        try:
            result = step()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            message = str(error).partition("\n")[0] or type(error).__name__
        messages = self.job.gather(message)
        message = next((m for m in messages if m), "")
        if message:
            raise _Refused(message)
        return result
