"""The fewest devices: against trying every number, and what is told."""

from __future__ import annotations

import contextlib
import functools
import itertools
from dataclasses import replace
from unittest import TestCase

from planner.choices import factorisations
from planner.cluster import load_cluster
from planner.constraints import Constraints, limit
from planner.explain.fit import fit_report
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.fit import Fit, device_counts, fewest_devices, state_bytes
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.objective import step_work
from planner.planning import Planning
from tests.test_planner.test_planning.programs import (large_llama, mlp,
                                                       slow_cluster)

_H100 = load_cluster("h100-sxm")


def _planning(limit_bytes: int, price: float | None = None) -> Planning:
    cluster = replace(_H100, price_per_device_hour=price)
    return Planning(mlp(), cluster, memory_limit_bytes=limit_bytes)


@functools.cache
def _need(devices: int, planning: Planning | None = None) -> int:
    """What the lightest plan on so many devices takes."""
    planning = (planning
                or _planning(1)).copied(cluster=_H100.resized(devices),
                                        memory_limit_bytes=1)
    found = planning.candidates(factorisations(devices))
    return min(c.memory.total for c in found)


class TestFewestDevices(TestCase):

    def test_is_the_first_that_fits(self) -> None:
        for devices in (1, 2, 4):
            fit = fewest_devices(_planning(_need(devices)), most=8)
            self.assertEqual(fit.smallest.devices, devices)
            self.assertTrue(fit.smallest.fits)
            self.assertEqual(fit.above and fit.above.devices, 2 * devices)
            if fit.below:
                self.assertFalse(fit.below.fits)
                self.assertEqual(2 * fit.below.devices, devices)

    def test_leaves_out_what_the_state_rules_out(self) -> None:
        planning, tried = _planning(_need(4)), []

        def meshes(devices: int) -> list[MeshSpec]:
            tried.append(devices)
            return factorisations(devices)

        limit_bytes = state_bytes(planning) // 2 - 1
        tight = planning.copied(memory_limit_bytes=limit_bytes)
        with contextlib.suppress(InfeasiblePlan):
            fewest_devices(tight, most=4, meshes=meshes)
        self.assertNotIn(2, tried)
        self.assertIn(4, tried)

    def test_searches_no_more_where_the_lightest_is_far_too_large(
            self) -> None:
        planning, tried = Planning(mlp(4096), _H100,
                                   memory_limit_bytes=600), []

        def meshes(devices: int) -> list[MeshSpec]:
            tried.append(devices)
            return factorisations(devices)

        with self.assertRaisesRegex(
                InfeasiblePlan,
                "no plan of .* on up to 16 devices: the smallest, .*, takes .*"
                r" on 2 devices, which is .* of each of 16; use a smaller"):
            fewest_devices(planning, most=16, meshes=meshes)
        self.assertEqual(set(tried) & {1, 2, 4, 8, 16}, {2})

    def test_more_devices_take_no_less_in_all(self) -> None:
        for planning in (_planning(1), Planning(mlp(64), _H100)):
            needs = {n: _need(n, planning) for n in (2, 4, 8, 24)}
            for few, many in itertools.combinations(needs, 2):
                if many % few == 0:
                    self.assertLessEqual(few * needs[few], many * needs[many])

    def test_says_why_nothing_fits(self) -> None:
        for limit_bytes, text in ((100, "state alone takes"),
                                  (530, "the smallest, ")):
            with self.assertRaisesRegex(
                    InfeasiblePlan, f"no plan of .* on up to 2 devices: "
                    f"{text}.*"):
                fewest_devices(_planning(limit_bytes), most=2)

    def test_obeys_constraints(self) -> None:
        planning = Planning(mlp(),
                            slow_cluster(4, 1e8),
                            constraints=Constraints(limit(tp=1)))
        fit = fewest_devices(planning, most=2)
        self.assertEqual(fit.smallest.devices, 1)
        self.assertEqual(fit.above and fit.above.found[0].mesh.names, ("dp", ))

    def test_state_is_that_of_a_whole_plan(self) -> None:
        planning = _planning(10**12)
        memory = planning.candidates(factorisations(1))[0].memory
        self.assertAlmostEqual(
            state_bytes(planning) /
            (memory.parameters + memory.gradients + memory.optimizer),
            1,
            delta=0.01)


class TestDeviceCounts(TestCase):

    def test_fill_nodes(self) -> None:
        self.assertEqual(list(device_counts(_H100, 20)), [1, 2, 4, 8, 16])
        self.assertEqual(list(device_counts(_H100, 4)), [1, 2, 4])
        self.assertEqual(list(device_counts(slow_cluster(2, 1e8), 6)),
                         [1, 2, 4, 6])

    def test_rise(self) -> None:
        for name in ("h100-sxm", "gb200-nvl72", "tpu-v5p", "cpu-gloo"):
            counts = list(device_counts(load_cluster(name), 5000))
            self.assertEqual(counts, sorted(set(counts)))


class TestReport(TestCase):

    @staticmethod
    def _fit(price: float | None) -> Fit:
        return fewest_devices(_planning(_need(2), price), most=4)

    def test_prices(self) -> None:
        row = fit_report(self._fit(3.6))["tried"][1]
        self.assertAlmostEqual(row["price_per_step"], 2 * row["step_s"] * 1e-3)
        work = step_work(mlp())
        self.assertAlmostEqual(row["price_per_billion"],
                               row["price_per_step"] / work.count * 1e9)
        self.assertAlmostEqual(row["rate"] * 2 * row["step_s"], work.count)

    def test_invents_no_price(self) -> None:
        report = fit_report(self._fit(None))
        self.assertIsNone(report["price_per_device_hour"])
        self.assertTrue(
            all(r["price_per_step"] is None for r in report["tried"]))

    def test_text(self) -> None:
        fit = self._fit(2.5)
        sized = fit.smallest
        text = format_report(
            build_report(sized.planning, sized.found[0], sized.found, fit=fit))
        for part in ("fewest devices that hold it: 2 devices (",
                     "price/10^9 samples", "\n  *        2 ", "too much",
                     "at 2.5 for an hour of a device", "\n  4 devices: "):
            self.assertIn(part, text)

    def test_causes_add_up(self) -> None:
        _, chosen, more = fit_report(self._fit(None))["tried"]
        self.assertAlmostEqual(sum(more["delta_s"].values()),
                               more["step_s"] - chosen["step_s"])


class TestWork(TestCase):

    def test_tokens_else_samples(self) -> None:
        work = step_work(large_llama())
        self.assertEqual((work.unit, work.count), ("tokens", 16 * 2048))
        work = step_work(mlp())
        self.assertEqual((work.unit, work.count), ("samples", 4))
