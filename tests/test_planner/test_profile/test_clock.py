"""Clocks: the host's, and one that reads a device's events."""

from __future__ import annotations

import types
from unittest import TestCase, mock

import torch

from planner.profile.clock import (DeviceClock, HostClock, clock_of,
                                   samples_after, samples_among)


class _Event:
    """Of a device on which every recorded event is 3 ms after the last."""

    now_ms = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        _Event.now_ms += 3.0
        self.at_ms = _Event.now_ms

    def elapsed_time(self, end: _Event) -> float:
        return end.at_ms - self.at_ms


class TestClocks(TestCase):

    def test_host(self) -> None:
        calls: list[int] = []
        found = HostClock().samples(lambda: calls.append(1),
                                    count=3,
                                    calls=5,
                                    ahead=True)
        self.assertEqual((len(found), len(calls)), (3, 15))
        self.assertIsInstance(clock_of(torch.device("cpu")), HostClock)

    def test_after(self) -> None:
        """A collective counts by what it adds to the products before it."""
        now_s = 0.0

        def takes(time_s: float) -> None:
            nonlocal now_s
            now_s += time_s

        with mock.patch("planner.profile.clock.time") as fake:
            fake.perf_counter = lambda: now_s
            found = samples_after(lambda: takes(5.0),
                                  lambda: takes(2.0),
                                  HostClock(),
                                  count=3,
                                  calls=4)
        self.assertEqual(found, [2.0] * 3)

    def test_among(self) -> None:
        """What goes before a kernel is not counted."""
        now_s = 0.0
        order: list[float] = []

        def takes(time_s: float) -> None:
            nonlocal now_s
            now_s += time_s
            order.append(time_s)

        with mock.patch("planner.profile.clock.time") as fake:
            fake.perf_counter = lambda: now_s
            found = samples_among(lambda: takes(5.0),
                                  lambda: takes(2.0),
                                  count=3,
                                  calls=4)
        self.assertEqual(found, [2.0] * 3)
        self.assertEqual(order, [5.0, 2.0] * 12)

    def test_device(self) -> None:
        waits: list[int] = []
        module = types.SimpleNamespace(Event=_Event,
                                       synchronize=lambda: waits.append(1))
        calls: list[int] = []
        with mock.patch("torch.get_device_module", lambda kind: module), \
                mock.patch("planner.profile.clock._PLUG_WIDTH", 4):
            clock = DeviceClock(torch.device("cpu"))
            for ahead, expected in ((True, 1), (False, 4)):
                waits.clear()
                found = clock.samples(lambda: calls.append(1),
                                      count=3,
                                      calls=2,
                                      ahead=ahead)
                for time_s in found:
                    self.assertAlmostEqual(time_s, 1.5e-3)
                self.assertEqual(len(waits), expected)
        self.assertEqual(len(calls), 12)
