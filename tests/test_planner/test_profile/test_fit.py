"""Fits find made-up devices and links again."""

from __future__ import annotations

import dataclasses
from unittest import TestCase

import torch

from planner.cluster.device import Coefficient
from planner.cluster.spec import ClusterSpec
from planner.profile.fit_device import DeviceFacts, fit_device
from planner.profile.fit_link import fit_cluster, unfitted_cluster
from planner.profile.point import Groups, Point
from planner.profile.points import points_for
from planner.profile.store import Measured
from tests.test_planner.test_profile.made_up import DEVICE, cluster, measured

_FACTS = DeviceFacts(name="made up", memory_bytes=2**34)


class TestDevice(TestCase):

    def test_found_again(self) -> None:
        known = measured(points_for("cpu", 1), cluster(1))
        device = fit_device(known, _FACTS)
        for dtype, peak in DEVICE.peak_flops_per_s:
            found = dict(device.peak_flops_per_s)[dtype]
            self.assertAlmostEqual(found / peak, 1, delta=0.05)
        for name in ("memory_bandwidth_bytes_per_s", "launch_overhead_s"):
            ratio = getattr(device, name) / getattr(DEVICE, name)
            self.assertAlmostEqual(ratio, 1, delta=0.05)
        for name in ("exposed", "cache_bytes", "cache_bytes_per_s"):
            ratio = (device.coefficient(name, 0.0) /
                     DEVICE.coefficient(name, 0.0))
            self.assertAlmostEqual(ratio, 1, delta=0.1)
        self.assertAlmostEqual(device.efficiency("attention"), 0.3, delta=0.02)
        half = device.efficiency("attention", torch.bfloat16)
        self.assertAlmostEqual(half, 0.02, delta=0.002)
        self.assertEqual(device.efficiency("attention", torch.float32),
                         device.efficiency("attention"))
        self.assertEqual(device.source, "measured on this machine")

    def test_one_product_is_enough(self) -> None:
        known = measured(points_for("cpu", 1)[:1], cluster(1))
        device = fit_device(known, _FACTS)
        ((dtype, peak), ) = device.peak_flops_per_s
        self.assertEqual(dtype, "float32")
        self.assertGreater(peak, 50e9)

    def test_no_product(self) -> None:
        with self.assertRaisesRegex(ValueError, "--budget-s"):
            fit_device({}, _FACTS)

    def test_functions_take_time_beside_their_bytes(self) -> None:
        slow = dataclasses.replace(DEVICE,
                                   coefficients=(*DEVICE.coefficients,
                                                 Coefficient(
                                                     name="gelu_s_per_byte",
                                                     value=2e-10,
                                                     source="made up")))
        known = measured(points_for("cpu", 1),
                         dataclasses.replace(cluster(1), device=slow))
        device = fit_device(known, _FACTS)
        self.assertAlmostEqual(device.coefficient("gelu_s_per_byte", 0.0),
                               2e-10,
                               delta=1e-11)
        self.assertAlmostEqual(device.coefficient("silu_s_per_byte", 0.0),
                               0.0,
                               delta=1e-11)

    def test_stragglers(self) -> None:
        """A quarter of what is computed, 2 s at most; 1 s of its own."""
        groups = Groups(shape=(1, 2), axis=1)
        known = measured(points_for("cpu", 1), cluster(1))
        known[Point(kind="all_reduce", sizes=(64, ),
                    groups=groups)] = Measured(median=1.0, count=3)
        for count, compute_s, late_s in ((1, 2.0, 1.5), (2, 4.0, 2.0),
                                         (8, 16.0, 3.0)):
            for kind, time_s in (("compute", compute_s), ("lateness", late_s)):
                point = Point(kind=kind, sizes=(8, count, 64), groups=groups)
                known[point] = Measured(median=time_s, count=3)
        device = fit_device(known, _FACTS)
        self.assertAlmostEqual(device.coefficient("straggling", 0.0), 0.25)
        self.assertAlmostEqual(device.coefficient("straggling_limit_s", 0.0),
                               2.0)

    def test_ranks_that_share_processors(self) -> None:
        for ratio, expected in ((2.0, 2.0), (1.05, 1.0)):
            known = measured(points_for("cpu", 1), cluster(1))
            point = Point(kind="alone_speedup",
                          sizes=(8, 64, 64),
                          groups=Groups(shape=(4, 1), axis=1, alone=True))
            known[point] = Measured(median=ratio, count=3)
            device = fit_device(known, _FACTS)
            self.assertEqual(device.coefficient("alone_speedup", 0.0),
                             expected)

    def test_messages(self) -> None:
        """Each of 4 takes a second, half of it the other rank's."""
        known = measured(points_for("cpu", 1), cluster(1))
        point = Point(kind="messages",
                      sizes=(4, 64),
                      groups=Groups(shape=(1, 2), axis=1))
        known[point] = Measured(median=4.0, count=3)
        device = fit_device(known, _FACTS)
        self.assertEqual(device.coefficient("message_s", 0.0), 0.5)

    def test_calls(self) -> None:
        known = measured(points_for("cpu", 1), cluster(1))
        for count, time_s in ((8, 5.0), (64, 33.0)):
            known[Point(kind="call",
                        sizes=(count, ))] = Measured(median=time_s, count=3)
        device = fit_device(known, _FACTS)
        self.assertAlmostEqual(device.coefficient("call_parameter_s", 0.0),
                               0.5)
        self.assertAlmostEqual(device.coefficient("call_s", 0.0), 1.0)

    def test_optimizer(self) -> None:
        known = {
            point: found
            for point, found in measured(points_for("cpu", 1), cluster(
                1)).items() if point.kind != "step_adamw_fused"
        }
        for count in (10, 100):
            point = Point(kind="step_adamw_fused",
                          sizes=(count, 1000 // count))
            known[point] = Measured(median=7 * 4 * 1000 / 4.5e9 + count * 0.25,
                                    count=3)
        device = fit_device(known, _FACTS)
        rate = device.memory_bandwidth_bytes_per_s
        self.assertAlmostEqual(device.coefficient("adamw_fused_share", 0.0) *
                               rate / 4.5e9,
                               1.0,
                               places=3)
        self.assertAlmostEqual(
            device.coefficient("adamw_fused_parameter_s", 0.0), 0.25)


class TestLinks(TestCase):

    def test_one_host(self) -> None:
        self._check(cluster(4), ("a", ) * 4)

    def test_two_hosts(self) -> None:
        self._check(cluster(2, 2), ("a", "a", "b", "b"))

    def _check(self, true: ClusterSpec, hosts: tuple[str, ...]) -> None:
        known = measured(points_for("cpu", 4), true)
        start = unfitted_cluster("local", DEVICE, hosts)
        found = fit_cluster(start, known)
        self.assertEqual([(t.name, t.size) for t in found.tiers],
                         [(t.name, t.size) for t in true.tiers])
        again = measured(known, found)
        errors = sorted(
            abs(again[p].median / m.median - 1) for p, m in known.items())
        self.assertLess(errors[len(errors) // 2], 0.03)
        self.assertLess(errors[-1], 0.15)

    def test_interleaved_hosts_are_one_tier(self) -> None:
        found = unfitted_cluster("local", DEVICE, ("a", "b", "a", "b"))
        self.assertEqual([t.name for t in found.tiers], ["node"])

    def test_alone_is_not_fitted(self) -> None:
        alone = Groups(shape=(2, 2), axis=1, alone=True)
        point = Point(kind="all_reduce", sizes=(4096, ), groups=alone)
        start = unfitted_cluster("local", DEVICE, ("a", ) * 4)
        known = {point: Measured(median=1.0, count=3)}
        self.assertEqual(fit_cluster(start, known), start)
        self.assertIn("assumed", start.tiers[0].link.source)


class TestDefaults(TestCase):

    def test_without_cache_coefficients_nothing_changes(self) -> None:
        plain = dataclasses.replace(DEVICE, coefficients=())
        point = Point(kind="copy", sizes=(1000, 1000))
        found = measured([point], dataclasses.replace(cluster(1),
                                                      device=plain))
        self.assertAlmostEqual(found[point].median, 8e6 / 9e9 + 4e-6)
