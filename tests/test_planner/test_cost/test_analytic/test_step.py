from __future__ import annotations

import dataclasses
import unittest
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.cost.analytic.configurations import (DDP, FSDP, FULL, NONE,
                                                  Configurations)
from planner.cost.analytic.hardware import Hardware, Rates
from planner.cost.analytic.operators import halvings
from planner.cost.analytic.stack import stack
from planner.cost.analytic.step import StepTime, queued_s, step_time
from tests.test_planner.test_cost.test_analytic.models import llama_8b

_CLUSTER = load_cluster("h100-sxm:8x8")


def _step(**choices: Any) -> StepTime:
    plan = Configurations(**choices)
    return step_time(llama_8b(), plan, Hardware.of(_CLUSTER, plan))


def _time_s(**choices: Any) -> float:
    return float(np.asarray(_step(**choices).time_s).item())


class TestStep(unittest.TestCase):

    def test_arrays_give_what_numbers_give(self) -> None:
        tp, pp, sharding = (np.array(n) for n in ((1, 2, 8, 1), (1, 4, 2, 8),
                                                  (0, 1, 3, 1)))
        dp = 64 // (tp * pp)
        together = _step(tp=tp,
                         pp=pp,
                         dp=dp,
                         num_microbatches=16,
                         sharding=sharding).time_s
        alone = [
            _time_s(tp=int(t),
                    pp=int(p),
                    dp=int(d),
                    num_microbatches=16,
                    sharding=int(s))
            for t, p, d, s in zip(tp, pp, dp, sharding, strict=True)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-12)

    def test_stacked_plans_give_what_each_gives(self) -> None:
        plans = [
            Configurations(tp=2, dp=4, num_microbatches=4),
            Configurations(cp=2, dp=4, num_microbatches=4)
        ]
        hardware = [Hardware.of(_CLUSTER, p) for p in plans]
        together = step_time(stack([llama_8b()] * 2), stack(plans),
                             stack(hardware)).time_s
        for plan, own, time_s in zip(plans, hardware, together, strict=True):
            self.assertAlmostEqual(
                float(step_time(llama_8b(), plan, own).time_s[0]), time_s)

    def test_parts_that_a_plan_does_not_have_take_no_time(self) -> None:
        alone = _step(num_microbatches=8)
        for name in ("tensor_s", "context_s", "expert_s", "pipeline_s",
                     "data_s"):
            with self.subTest(name):
                self.assertEqual(np.max(getattr(alone, name)), 0.0)

    def test_recomputation_repeats_the_forward(self) -> None:
        plain = _step(num_microbatches=8, recompute=NONE)
        again = _step(num_microbatches=8, recompute=FULL)
        share = float(again.compute_s / plain.compute_s)
        self.assertTrue(1.25 < share < 1.4, share)

    def test_more_micro_batches_have_a_smaller_bubble(self) -> None:

        def bubble(count: int) -> float:
            found = _step(pp=8, dp=8, num_microbatches=count)
            return float(found.pipeline_s[0] / found.time_s[0])

        self.assertGreater(bubble(8), bubble(64))

    def test_chunks_divide_the_bubble(self) -> None:
        plain, divided = (_step(pp=8, dp=8, num_microbatches=8, chunks=c)
                          for c in (1, 4))
        self.assertLess(float(divided.pipeline_s[0]),
                        0.5 * float(plain.pipeline_s[0]))

    def test_overlap_hides_gradients(self) -> None:
        shown = _step(dp=64, overlap=False, sharding=DDP)
        hidden = _step(dp=64, overlap=True, sharding=DDP)
        self.assertLess(float(hidden.data_s[0]), float(shown.data_s[0]))

    def test_tensor_overlap_leaves_a_part(self) -> None:
        shown, hidden = (_step(tp=8,
                               dp=8,
                               sequence_parallel=True,
                               tensor_overlap=o) for o in (False, True))
        self.assertLess(float(hidden.tensor_s[0]), float(shown.tensor_s[0]))
        self.assertGreaterEqual(float(hidden.tensor_s[0]),
                                float(shown.tensor_s[0]) / 8)

    @settings(max_examples=30, deadline=None)
    @given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]),
           st.sampled_from([DDP, FSDP]), st.floats(1.0, 4.0))
    def test_faster_links_are_never_slower(self, tp: int, pp: int,
                                           sharding: int,
                                           factor: float) -> None:
        plan = Configurations(tp=tp,
                              pp=pp,
                              dp=64 // (tp * pp),
                              num_microbatches=8,
                              sharding=sharding)
        faster = dataclasses.replace(
            _CLUSTER,
            tiers=tuple(
                dataclasses.replace(
                    t,
                    link=dataclasses.replace(t.link,
                                             bandwidth_bytes_per_s=factor *
                                             t.link.bandwidth_bytes_per_s))
                for t in _CLUSTER.tiers))
        slow_s, fast_s = (float(
            step_time(llama_8b(), plan, Hardware.of(c, plan)).time_s[0])
                          for c in (_CLUSTER, faster))
        self.assertLessEqual(fast_s, slow_s * (1 + 1e-12))


class TestTerms(unittest.TestCase):

    def test_host_and_device_wait_for_each_other(self) -> None:
        rates = dataclasses.replace(Rates.of(_CLUSTER.device), queue_order=2.0)
        self.assertAlmostEqual(float(queued_s(3.0, 4.0, rates)), 5.0)
        self.assertAlmostEqual(float(queued_s(4.0, 0.0, rates)), 4.0)

    def test_a_width_that_64_divides_is_aligned(self) -> None:
        self.assertEqual([int(halvings(n)) for n in (128, 216, 108, 150)],
                         [0, 3, 4, 5])

    def test_shares_slow_the_links_of_their_axis(self) -> None:
        plan = Configurations(tp=8, dp=8)
        axis = Hardware.of(_CLUSTER, plan).tp
        half = axis.slowed(0.5)
        np.testing.assert_allclose(half.link.rate_bytes_per_s,
                                   axis.link.rate_bytes_per_s / 2)

    def test_rows_go_once_to_each_node(self) -> None:
        plan = Configurations(dp=64, ep=64)
        axis = Hardware.of(_CLUSTER, plan).ep
        # 8 nodes, 8 copies: 7 (1 - (7/8)^8) of 7 go out.
        self.assertAlmostEqual(float(axis.distinct_units(8)[0]),
                               1 - (7 / 8)**8)

    def test_experts_take_ranks_of_tp_where_they_need_them(self) -> None:
        plan = Configurations(tp=2, dp=4, ep=8)
        self.assertEqual(float(Hardware.of(_CLUSTER, plan).ep.size[0]), 8)


if __name__ == "__main__":
    unittest.main()
