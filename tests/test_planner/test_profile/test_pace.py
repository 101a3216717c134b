"""What a machine that is slower than when it was profiled makes of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import TestCase, mock

import torch

from planner.cluster.local import local_path, profile_key
from planner.cluster.spec import (ClusterSpec, Coefficient, DeviceKind, Link,
                                  Tier)
from planner.cluster.text import to_yaml
from planner.profile import measure
from planner.profile import pace as pace_module
from planner.profile.job import Job, Refused
from planner.profile.measure import Outcome
from planner.profile.pace import at_pace, clear_pace, pace
from planner.profile.point import Point
from planner.profile.points import points_for
from planner.profile.run import POINTS_FILE
from planner.profile.store import Measured, Store
from tests.launch import launch

_CLUSTER = ClusterSpec(
    name="made up",
    device=DeviceKind(name="device",
                      memory_bytes=10**9,
                      memory_bandwidth_bytes_per_s=6e9,
                      peak_flops_per_s=(("float32", 3e9), ),
                      launch_overhead_s=1e-5,
                      efficiencies=(Coefficient(name="attention",
                                                value=0.5,
                                                source=""), ),
                      coefficients=tuple(
                          Coefficient(name=n, value=3.0, source="")
                          for n in ("cache_bytes", "cache_bytes_per_s",
                                    "gelu_s_per_byte", "interference",
                                    "call_s", "adamw_fused_parameter_s"))),
    tiers=(Tier(name="node",
                size=1,
                link=Link(latency_s=1e-3, bandwidth_bytes_per_s=6e9)), ))


def _again(ratio: float) -> Any:
    """In place of measuring: all kernels take so much longer than 1 s."""

    def measured(points: Sequence[Point], *args: Any,
                 **options: Any) -> Outcome:
        return Outcome(
            known={p: Measured(median=ratio, count=1)
                   for p in points},
            missing=(),
            refused={})

    return mock.patch.object(pace_module, "measure_points", measured)


class TestScaled(TestCase):

    def _coefficients(self, device: DeviceKind) -> Mapping[str, float]:
        return {c.name: c.value for c in device.coefficients}

    def test_processors(self) -> None:
        found = at_pace(_CLUSTER, 2.0, device_type="cpu")
        device = found.device
        self.assertEqual(device.memory_bandwidth_bytes_per_s, 3e9)
        self.assertEqual(device.peak_flops_per_s, (("float32", 1.5e9), ))
        self.assertAlmostEqual(device.launch_overhead_s, 2e-5)
        self.assertEqual(device.efficiencies, _CLUSTER.device.efficiencies)
        self.assertEqual(
            self._coefficients(device), {
                "cache_bytes": 3.0,
                "cache_bytes_per_s": 1.5,
                "gelu_s_per_byte": 6.0,
                "interference": 3.0,
                "call_s": 6.0,
                "adamw_fused_parameter_s": 6.0
            })
        self.assertIn("at 2.00 times the time", device.source)
        self.assertEqual(found.tiers, _CLUSTER.tiers)

    def test_an_accelerator_has_a_host_beside_it(self) -> None:
        found = at_pace(_CLUSTER, 2.0, device_type="cuda")
        coefficients = self._coefficients(found.device)
        for name in ("call_s", "adamw_fused_parameter_s"):
            self.assertEqual(coefficients[name], 3.0)
        self.assertEqual(coefficients["gelu_s_per_byte"], 6.0)


class TestPace(TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.job = Job(torch.device("cpu"))

    def _profiled(self) -> None:
        path = local_path("cpu", 1, folder=self.folder)
        path.write_text(to_yaml(_CLUSTER), encoding="utf-8")
        store = Store(self.folder / POINTS_FILE, profile_key("cpu", 1))
        for point in points_for("cpu", 1):
            store.put(point, Measured(median=1.0, count=1))
        store.close()

    def _check_nothing_is_measured(self) -> None:
        with mock.patch.object(pace_module, "measure_points") as measured:
            self.assertEqual(clear_pace(self.job, folder=self.folder), 1.0)
        measured.assert_not_called()

    def test_without_a_profile_nothing_is_measured(self) -> None:
        self._check_nothing_is_measured()
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_points_that_cannot_be_read_count_as_none(self) -> None:
        self._profiled()
        (self.folder / POINTS_FILE).write_bytes(b"no database" * 100)
        self._check_nothing_is_measured()

    def test_a_profile_that_cannot_be_read_counts_as_none(self) -> None:
        self._profiled()
        path = local_path("cpu", 1, folder=self.folder)
        path.write_text("name: local\ndevice:\n", encoding="utf-8")
        self._check_nothing_is_measured()

    def test_only_what_is_clear_counts(self) -> None:
        self._profiled()
        found = []
        for ratio in (0.5, 0.95, 1.05, 1.5):
            with _again(ratio):
                found.append(clear_pace(self.job, folder=self.folder))
        self.assertEqual(found, [0.5, 1.0, 1.0, 1.5])

    def test_the_caller_and_what_is_measured_leave_each_other_alone(
            self) -> None:
        modes = []

        def measured(*_: object) -> Measured:
            torch.rand(3)
            modes.append(
                (torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
            return Measured(median=2.0, count=1)

        torch.manual_seed(0)
        wanted = torch.rand(2)
        torch.manual_seed(0)
        with mock.patch.object(measure._Meter, "measured", measured), \
                torch.autocast("cpu"), torch.no_grad():
            ratio = pace(self.job, _KNOWN)
        self.assertEqual(ratio, 2.0)
        self.assertTrue(torch.equal(torch.rand(2), wanted))
        self.assertEqual(set(modes), {(False, True)})

    def test_one_kernel_that_does_not_run(self) -> None:
        with _out_of_memory(True, "runner"), \
                self.assertRaisesRegex(Refused, "^no memory$"):
            pace(self.job, _KNOWN)


_KNOWN = {
    Point(kind="add", sizes=(8, 8)): Measured(median=1.0, count=1),
    Point(kind="mm", sizes=(8, 8, 8), variant="nn"): Measured(median=1.0,
                                                              count=1),
}
_PARTS = ("clock_of", "_undisturbed", "runner", "warm", "once_s", "samples")


def _out_of_memory(here: bool,
                   part: str) -> contextlib.AbstractContextManager[Any]:
    """A part of measuring finds an accelerator's memory full."""
    owner = measure if hasattr(measure, part) else measure._Runs

    def full(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("no memory\nmore text")

    return (mock.patch.object(owner, part, full)
            if here else contextlib.nullcontext())


def _beside_a_full_one(rank: int) -> tuple[list[str], float]:
    """What each rank is told, and what they agree on after all of it."""
    job, told = Job(torch.device("cpu")), []
    for part in _PARTS:
        with _out_of_memory(rank == 1, part):
            try:
                told.append(str(pace(job, _KNOWN)))
            except Refused as error:
                told.append(str(error))
    return told, job.largest(float(rank))


class TestRanks(TestCase):

    def test_none_waits_for_one_whose_memory_is_full(self) -> None:
        expected = ["no memory (rank 1)"] * len(_PARTS), 2.0
        self.assertEqual(launch(3, _beside_a_full_one), [expected] * 3)
