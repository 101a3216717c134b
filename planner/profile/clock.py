"""Time of something that runs on a device."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = [
    "SHARED_S", "Clock", "DeviceClock", "HostClock", "clock_of",
    "samples_after", "samples_among"
]

_PLUG_WIDTH = 4096
SHARED_S = 0.02
"""Some turns of a scheduler that gives each process about 3 ms."""


class Clock(Protocol):
    """How seconds of calls are taken."""

    shortest_s: float
    """What one sample lasts at least, for the clock to be exact."""

    def samples(self, run: Callable[[], Any], *, count: int, calls: int,
                ahead: bool) -> list[float]:
        """Seconds per call, from `count` samples of so many `calls`.

        With `ahead` the host may enqueue calls before the device gets to
        them, so that only the device's time counts.
        """
        ...


class HostClock:
    """Of work that is done when the call returns.

    Parameters
    ----------
    shared : bool
        Whether there are more processes than processors. Then a sample has
        to last several of the scheduler's turns: within one, a process
        does not notice that it shares.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self.shortest_s = SHARED_S if shared else 5e-4

    def samples(self, run: Callable[[], Any], *, count: int, calls: int,
                ahead: bool) -> list[float]:
        found = []
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(calls):
                run()
            found.append((time.perf_counter() - start) / calls)
        return found


class DeviceClock:
    """Of work that is enqueued, by events of the device's streams.

    Parameters
    ----------
    device : torch.device
    """

    # Longer, and the host would not have enqueued all calls in time.
    shortest_s = 1e-4

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module = torch.get_device_module(device.type)

    @functools.cached_property
    def plug(self) -> torch.Tensor:
        return torch.ones(_PLUG_WIDTH, _PLUG_WIDTH, device=self.device)

    def samples(self, run: Callable[[], Any], *, count: int, calls: int,
                ahead: bool) -> list[float]:
        marks = []
        for _ in range(count):
            if ahead:
                # The device is busy with this while calls are enqueued.
                torch.mm(self.plug, self.plug)
            start, end = (self.module.Event(enable_timing=True)
                          for _ in range(2))
            start.record()
            for _ in range(calls):
                run()
            end.record()
            marks.append((start, end))
            if not ahead:
                self.module.synchronize()
        self.module.synchronize()
        # Events count in milliseconds.
        return [1e-3 * a.elapsed_time(b) / calls for a, b in marks]


def clock_of(device: torch.device, *, shared: bool = False) -> Clock:
    """The clock for a device, which processes may have to share."""
    if device.type == "cpu":
        return HostClock(shared=shared)
    return DeviceClock(device)


def samples_after(before: Callable[[], Any], run: Callable[[], Any],
                  clock: Clock, *, count: int, calls: int) -> list[float]:
    """Seconds that each `run` adds to what goes before it.

    One collective after the other finds every process awake and no
    processor busy, which is not how a step's collectives find them.

    Parameters
    ----------
    before, run : callable
    clock : Clock
    count, calls : int
        Samples, and calls of each in a row.
    """

    def both() -> None:
        before()
        run()

    found = []
    for _ in range(count):
        without_s, with_s = (clock.samples(each,
                                           count=1,
                                           calls=calls,
                                           ahead=False)[0]
                             for each in (before, both))
        found.append(max(with_s - without_s, 1e-7))
    return found


def samples_among(others: Callable[[], Any], run: Callable[[], Any], *,
                  count: int, calls: int) -> list[float]:
    """Seconds of each `run` on the host, with something else before each.

    A processor that does the same over and over has its code, its operands
    and what it jumps to at hand, which in a step of many kernels it has not.

    Parameters
    ----------
    others, run : callable
    count, calls : int
        Samples, and calls in a row of which each is the mean.
    """
    found = []
    for _ in range(count):
        total_s = 0.0
        for _ in range(calls):
            others()
            start = time.perf_counter()
            run()
            total_s += time.perf_counter() - start
        found.append(total_s / calls)
    return found
