"""Measure points one by one, all ranks together."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from planner.profile.clock import (SHARED_S, Clock, HostClock, clock_of,
                                   samples_after, samples_among)
from planner.profile.collectives import (between_runner, collective_runner,
                                         messages_runner, products)
from planner.profile.in_turns import COMPARED, compared_runs
from planner.profile.job import Job, Refused
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
_COMPARED = 3
"""Turns of what is compared, in a round."""
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

    Random numbers go on as if none were drawn.

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

    Raises
    ------
    ValueError
        On all ranks, when the store can't be used.
    Refused
        On all ranks, when some rank can't get ready to measure.
    """
    with contextlib.ExitStack() as stack:
        job.together(lambda: stack.enter_context(_undisturbed(job.device)))
        return _measured(points,
                         job,
                         store,
                         budget_s=budget_s,
                         refresh=refresh)


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Neither modes of the caller change what runs, nor that the caller."""
    kind = device.type
    devices = [] if kind == "cpu" else [device]
    plain = (torch.autocast(kind, enabled=False)
             if torch.amp.is_autocast_available(kind) else
             contextlib.nullcontext())
    forked = torch.random.fork_rng(
        devices, device_type="cuda" if kind == "cpu" else kind)
    with forked, plain, torch.enable_grad():
        yield


def _measured(points: Sequence[Point], job: Job, store: Store | None, *,
              budget_s: float, refresh: bool) -> Outcome:
    start = time.monotonic()
    kept = job.by_first(lambda: {} if store is None else store.all())
    known = {} if refresh else {
        p: kept[p.row]
        for p in points if p.row in kept
    }
    refused: dict[Point, str] = {}
    left = [p for p in points if p not in known]
    each_s = min(max(_SHARE * budget_s / max(len(left), 1), _QUICKEST_S),
                 _SLOWEST_S)
    meter = job.together(lambda: _Meter(job, each_s / _ROUNDS))
    rounds: dict[Point, list[Measured]] = {p: [] for p in left}
    full = ""
    with tqdm(left * _ROUNDS,
              desc="measuring",
              unit=" points",
              file=sys.stderr,
              leave=False,
              disable=None if job.is_first else True) as bar:
        for point in bar:
            # Ranks must stop at the same point.
            passed_s = math.inf if full else time.monotonic() - start
            if job.largest(passed_s) > budget_s:
                break
            if point in refused:
                continue
            if not bar.disable:
                bar.set_postfix_str(str(point), refresh=False)
            try:
                rounds[point].append(meter.measured(point))
            except Refused as error:
                refused[point] = str(error)
                continue
            known[point] = _mean(rounds[point])
            full = _kept(point, known[point], store)
    if message := job.first(full):
        raise ValueError(message)
    missing = tuple(p for p in points if p not in known and p not in refused)
    return Outcome(known=known, missing=missing, refused=refused)


def _kept(point: Point, measured: Measured, store: Store | None) -> str:
    """Why a point could not be kept; nothing where it was."""
    try:
        if store is not None:
            store.put(point, measured)
    except ValueError as error:
        return str(error)
    return ""


def _mean(rounds: Sequence[Measured]) -> Measured:
    """What a step of many kernels takes of each: neither the best moments
    alone nor the usual ones."""
    found = sorted(m.median for m in rounds)
    left_out = int(_TRIMMED * len(found))
    kept = found[left_out:len(found) - left_out]
    return Measured(median=statistics.mean(kept),
                    count=sum(m.count for m in rounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """A point on this rank.

    Parameters
    ----------
    run : callable or None
        None: this rank waits for others.
    between : callable or None
        What goes before each call.
    clock : Clock
    alone : bool
        Whether ranks do without each other.
    """

    run: Callable[[], Any] | None
    between: Callable[[], Any] | None
    clock: Clock
    alone: bool

    def warm(self) -> None:
        """The first call."""
        if self.run is not None:
            self.run()

    def once_s(self) -> float:
        """Of a second call and what is measured with it."""
        # What goes between is measured alone as well.
        return (self._once_s(self.run) +
                (1 if self.alone else 2) * self._once_s(self.between))

    def samples(self, *, count: int, calls: int) -> list[float]:
        """Seconds of each sample's calls."""
        if self.run is None:
            return [0.0]
        if self.between is None:
            return self.clock.samples(self.run,
                                      count=count,
                                      calls=calls,
                                      ahead=self.alone)
        if self.alone:
            return samples_among(self.between,
                                 self.run,
                                 count=count,
                                 calls=calls)
        return samples_after(self.between,
                             self.run,
                             self.clock,
                             count=count,
                             calls=calls)

    def _once_s(self, run: Callable[[], Any] | None) -> float:
        if run is None:
            return 0.0
        # Another warm-up, whose time is known.
        found = self.clock.samples(run, count=1, calls=1, ahead=self.alone)
        return max(found[0], 1e-7)


class _Meter:
    """Runs points on all ranks at once; the slowest rank counts.

    What fails on one rank is refused on all of them before any waits for it
    in a collective.
    """

    def __init__(self, job: Job, each_s: float) -> None:
        self.job = job
        self.each_s = each_s
        self.clock = clock_of(job.device, shared=job.shares_processors)

    def measured(self, point: Point) -> Measured:
        job = self.job
        if point.kind == "allocator":
            ratio = job.together(
                lambda: allocator_ratio(job.device, _ALLOCATOR_ELEMENTS))
            return Measured(median=job.largest(ratio), count=1)
        if point.kind in COMPARED:
            return self._compared(point)
        runs = job.together(lambda: self._made(point))
        job.together(runs.warm)
        once_s = job.largest(job.together(runs.once_s))
        count, calls = self._samples(runs, once_s)
        job.largest(0.0)
        found = job.together(
            functools.partial(runs.samples, count=count, calls=calls))
        median = job.largest(statistics.median(found))
        del runs
        gc.collect(0)
        return Measured(median=median, count=count)

    def _compared(self, point: Point) -> Measured:
        """The median of some turns, each by the slowest rank."""
        runs = self.job.together(lambda: compared_runs(point, self.job))
        for run in runs:
            self._sample_s(run, calls=1)
        once_s = max(self._sample_s(run, calls=1) for run in runs)
        calls = _calls(self.clock, once_s, alone=False)
        found = statistics.median(COMPARED[
            point.kind]([self._sample_s(run, calls=calls) for run in runs])
                                  for _ in range(_COMPARED))
        return Measured(median=self.job.first(found), count=_COMPARED)

    def _sample_s(self, run: Callable[[], Any] | None, *, calls: int) -> float:
        """Of a call, on the slowest rank; all begin together."""
        sample = functools.partial(self.clock.samples,
                                   count=1,
                                   calls=calls,
                                   ahead=False)
        return self.job.largest(
            self.job.together(lambda: sample(run)[0] if run else 0.0))

    def _made(self, point: Point) -> _Runs:
        """What runs a point, its operands made; nothing has run yet."""
        run = self._runner(point)
        return _Runs(
            run=run,
            between=self._between(point) if run else None,
            clock=HostClock() if point.kind == "dispatch" else self.clock,
            alone=point.groups is None)

    def _samples(self, runs: _Runs, once_s: float) -> tuple[int, int]:
        """How many samples, and of how many calls each."""
        calls = _calls(runs.clock, once_s, alone=runs.alone)
        sample_s = calls * once_s
        count = max(round(self.each_s / sample_s),
                    _FEWEST if sample_s < _LONG_S else 1)
        return min(count, _MOST), calls

    @functools.cached_property
    def _others(self) -> Callable[[], Any]:
        return others_runner(self.job.device)

    def _between(self, point: Point) -> Callable[[], Any] | None:
        """What goes before each call, where it makes a difference."""
        if not isinstance(self.clock, HostClock):
            return None
        if point.groups is None:
            return self._others
        if point.kind in COLLECTIVE_KINDS:
            return between_runner(self.job)
        return None

    def _runner(self, point: Point) -> Callable[[], Any] | None:
        if point.kind in OPERATIONS:
            return runner(point, self.job.device)
        if point.kind in COLLECTIVE_KINDS:
            return collective_runner(point, self.job)
        if point.kind == "messages":
            return messages_runner(point, self.job)
        if point.kind == "compute":
            width, count, _ = point.sizes
            return products(width, count, point.torch_dtype, self.job)
        if point.kind == "dispatch":
            return dispatch_runner(self.job.device)
        if point.kind == "view":
            return view_runner(self.job.device)
        if point.kind == "call":
            return call_runner(point, self.job.device)
        return optimizer_runner(point, self.job.device)


def _calls(clock: Clock, once_s: float, *, alone: bool) -> int:
    """How many calls one sample is of."""
    # Ranks that wait for each other do so for very different times;
    # what counts in a step of many collectives is the mean.
    shortest_s = clock.shortest_s if alone else max(clock.shortest_s, SHARED_S)
    fewest = 1 if alone or once_s > _LONG_S else _TURNS
    return min(max(round(shortest_s / once_s), fewest), _MOST_CALLS)
