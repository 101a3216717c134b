from __future__ import annotations

import dataclasses
import math
import unittest

import torch

from planner.cluster import (ClusterSpec, Coefficient, DeviceKind, Link,
                             NodeGroup, Tier, load_cluster, preset_names)


def _device(**changes: object) -> DeviceKind:
    fields: dict[str, object] = dict(name="toy",
                                     memory_bytes=100,
                                     memory_bandwidth_bytes_per_s=1e9,
                                     peak_flops_per_s=(("float32", 1e12),
                                                       ("bfloat16", 4e12)),
                                     launch_overhead_s=1e-6)
    return DeviceKind(**{**fields, **changes})  # type: ignore[arg-type]


class TestSpec(unittest.TestCase):

    def test_peak_is_by_dtype_and_else_the_slowest(self) -> None:
        device = _device()
        self.assertEqual(device.peak(torch.bfloat16), 4e12)
        self.assertEqual(device.peak(torch.float64), 1e12)

    def test_matmul_efficiency_stands_in_for_products_only(self) -> None:
        device = _device(efficiencies=(
            Coefficient(name="matmul", value=0.5, source="test"), ))
        self.assertEqual(device.efficiency("attention"), 0.5)
        self.assertEqual(device.efficiency("memory"), 1.0)

    def test_numbers_that_make_no_sense_are_refused(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "device toy: memory_bytes must be a finite "
                "number greater than 0, got -1"):
            _device(memory_bytes=-1)
        with self.assertRaisesRegex(ValueError, "latency_s .* at least 0"):
            Link(latency_s=-1e-6, bandwidth_bytes_per_s=1.0)
        with self.assertRaisesRegex(ValueError, "bandwidth.*got nan"):
            Link(latency_s=0.0, bandwidth_bytes_per_s=math.nan)
        with self.assertRaisesRegex(ValueError, "peak_flops_per_s is empty"):
            _device(peak_flops_per_s=())

    def test_tiers_need_distinct_names(self) -> None:
        link = Link(latency_s=0.0, bandwidth_bytes_per_s=1.0)
        tier = Tier(name="node", size=2, link=link)
        with self.assertRaisesRegex(ValueError, "distinct names"):
            ClusterSpec(name="toy", device=_device(), tiers=(tier, tier))

    def test_the_weakest_of_a_mixed_cluster(self) -> None:
        fast = _device(memory_bytes=50, peak_flops_per_s=(("float32", 2e12), ))
        link = Link(latency_s=0.0, bandwidth_bytes_per_s=1.0)
        tiers = (Tier(name="node", size=2,
                      link=link), Tier(name="fabric", size=2, link=link))
        mixed = ClusterSpec(name="toy",
                            device=_device(),
                            tiers=tiers,
                            others=(NodeGroup(num_nodes=1, device=fast), ))
        weakest = mixed.weakest()
        self.assertEqual(weakest.memory_bytes, 50)
        self.assertEqual(weakest.peak_flops_per_s, (("float32", 1e12), ))
        same = ClusterSpec(name="toy", device=fast, tiers=tiers)
        self.assertIs(same.weakest(), fast)
        with self.assertRaisesRegex(ValueError, "lists its nodes one by one"):
            mixed.resized(2)

    def test_unknown_tier_names_the_nearest(self) -> None:
        with self.assertRaisesRegex(ValueError, "no tier 'nodes'; did you "
                                    "mean node"):
            load_cluster("h100-sxm").tier("nodes")

    def test_resized_fills_inner_tiers_first(self) -> None:
        cluster = load_cluster("h100-sxm")
        sizes = [t.size for t in cluster.resized(64).tiers]
        self.assertEqual(sizes, [8, 8])
        self.assertEqual([t.size for t in cluster.resized(4).tiers], [4, 1])
        with self.assertRaisesRegex(
                ValueError, "12 devices do not fill "
                "whole units of tier node"):
            cluster.resized(12)


class TestPresets(unittest.TestCase):

    def test_every_preset_loads_under_its_own_name(self) -> None:
        self.assertIn("cpu-gloo", preset_names())
        for name in preset_names():
            with self.subTest(name):
                self.assertEqual(load_cluster(name).name, name)
                self.assertEqual(load_cluster(name.upper()).name, name)

    def test_every_number_names_its_source(self) -> None:
        for name in preset_names():
            cluster = load_cluster(name)
            parts: list[DeviceKind | Link] = [cluster.device]
            parts += [t.link for t in cluster.tiers]
            sources = [
                part.source_of(field.name) for part in parts
                for field in dataclasses.fields(part)
            ]
            sources += [c.source for c in cluster.device.efficiencies]
            sources += [c.source for c in cluster.device.coefficients]
            with self.subTest(name):
                self.assertTrue(all(sources))

    def test_efficiencies_are_shares(self) -> None:
        for name in preset_names():
            for coefficient in load_cluster(name).device.efficiencies:
                with self.subTest(f"{name} {coefficient.name}"):
                    self.assertLessEqual(coefficient.value, 1.0)

    def test_outer_tiers_are_no_faster(self) -> None:
        for name in preset_names():
            rates = [
                t.link.bandwidth_bytes_per_s for t in load_cluster(name).tiers
            ]
            with self.subTest(name):
                self.assertEqual(rates, sorted(rates, reverse=True))


if __name__ == "__main__":
    unittest.main()
