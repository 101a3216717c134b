from __future__ import annotations

import dataclasses
import unittest
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.cluster.slowest import slowest
from planner.cost.analytic import operator_time
from planner.cost.analytic.attention import attention_core
from planner.cost.analytic.configurations import (ALTERNATE, DDP, FIRST, FSDP,
                                                  FULL, NONE, OWN, SECOND,
                                                  ZERO1, Configurations)
from planner.cost.analytic.ends import embedding, head
from planner.cost.analytic.hardware import Hardware, Rates
from planner.cost.analytic.layers import dense_layer
from planner.cost.analytic.operators import Operator, halvings
from planner.cost.analytic.shares import stage_parameters
from planner.cost.analytic.stack import stack
from planner.cost.analytic.step import StepTime, step_time
from planner.cost.queue import queued_s
from tests.test_planner.test_cost.test_analytic.models import llama_8b

_CLUSTER = load_cluster("h100-sxm:8x8")


def _step(**choices: Any) -> StepTime:
    plan = Configurations(**choices)
    return step_time(llama_8b(), plan, Hardware.of(_CLUSTER, plan))


def _time_s(**choices: Any) -> float:
    return float(np.asarray(_step(**choices).time_s).item())


def _equal_devices(plan: Configurations) -> Hardware:
    """Hardware whose devices are as quick as each other."""
    kept = tuple(c for c in _CLUSTER.device.coefficients
                 if c.name != "variation")
    device = dataclasses.replace(_CLUSTER.device, coefficients=kept)
    return Hardware.of(dataclasses.replace(_CLUSTER, device=device), plan)


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

    def test_recomputation_that_stops_early_leaves_out_a_product(self) -> None:
        plan = Configurations(num_microbatches=8, recompute=FULL)
        hardware = _equal_devices(plan)
        whole, early = (step_time(llama_8b(),
                                  dataclasses.replace(plan, stops_early=stops),
                                  hardware).compute_s.item()
                        for stops in (False, True))
        last = dense_layer(llama_8b(), plan)[-1:]
        last_s = float(
            operator_time.time_s(last, hardware.rates, plan, backward=False))
        self.assertEqual(last[0].name, "mlp down")
        self.assertAlmostEqual((whole - early) / (8 * 32 * last_s), 1)

    def test_early_recomputation_sums_one_time_less(self) -> None:
        plan = Configurations(tp=8, recompute=FULL)
        whole, early = (_step(tp=8, recompute=FULL,
                              stops_early=stops).tensor_s.item()
                        for stops in (False, True))
        layer_s = Hardware.of(_CLUSTER, plan).tp.time_s(
            "all_reduce", 2 * llama_8b().seq * llama_8b().hidden)
        self.assertAlmostEqual((whole - early) / (32 * layer_s.item()), 1)

    def test_alternate_recomputation_is_in_between(self) -> None:
        none, half, full = (_time_s(num_microbatches=8, recompute=r)
                            for r in (NONE, ALTERNATE, FULL))
        self.assertLess(none, half)
        self.assertLess(half - none, 0.6 * (full - none))

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
        # Four of ten collectives scatter, and one part of eight stays.
        self.assertGreaterEqual(float(hidden.tensor_s[0]),
                                float(shown.tensor_s[0]) * 0.39 / 8)

    def test_chunks_take_turns_while_others_are_reduced(self) -> None:

        def data_s(chunks: int) -> float:
            plan = Configurations(pp=2,
                                  dp=32,
                                  chunks=chunks,
                                  num_microbatches=4,
                                  sharding=ZERO1)
            hardware = Hardware.of(_CLUSTER, plan)
            slow = dataclasses.replace(hardware,
                                       data=hardware.data.slowed(0.1,
                                                                 point=1.0),
                                       shard=hardware.shard.slowed(0.1,
                                                                   point=1.0))
            return float(step_time(llama_8b(), plan, slow).data_s[0])

        self.assertLess(data_s(8), data_s(1))

    def test_the_backward_hides_sums_of_gradients_of_inputs(self) -> None:
        for sequence, all_, behind in ((False, 4, 2), (True, 10, 4)):
            shown, hidden = (_step(tp=2,
                                   sequence_parallel=sequence,
                                   backward_overlap=o) for o in (False, True))
            rates = Hardware.of(_CLUSTER, Configurations(tp=2)).rates
            # Of an all-reduce's halves, each as long as the other.
            left = all_ - behind * (1 - float(rates.interference))
            self.assertAlmostEqual(float(np.ravel(hidden.tensor_s)[0]) /
                                   float(np.ravel(shown.tensor_s)[0]),
                                   left / all_,
                                   delta=0.03)

    def test_gathered_logits_cost_every_rank_the_whole_loss(self) -> None:
        whole, part = (_step(tp=8, whole_logits=w) for w in (True, False))
        self.assertGreater(float(whole.compute_s), float(part.compute_s))
        self.assertGreater(np.max(whole.tensor_s), np.max(part.tensor_s))

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


class TestSums(unittest.TestCase):
    """Gradients of micro-batches are added up."""

    def setUp(self) -> None:
        self.plan = Configurations(num_microbatches=8)
        self.rates = Rates.of(_CLUSTER.weakest())
        self.held = float(stage_parameters(llama_8b(), self.plan))

    def _compute_s(self, **choices: Any) -> float:
        return float(_step(num_microbatches=8, **choices).compute_s.item())

    def test_in_32_bits_ten_bytes_of_each_parameter_move(self) -> None:
        # The backward's gradient and the sum are read, the sum is written;
        # a product that adds writes the sum in place of the gradient.
        fused_s, plain_s = (self._compute_s(fused_accumulation=f)
                            for f in (True, False))
        moved = 10 - self.rates.exposed * 6
        self.assertAlmostEqual(
            (plain_s - fused_s) /
            (8 * self.held * moved / self.rates.memory_bytes_per_s), 1)

    def test_in_16_bits_the_first_gradient_is_the_sum(self) -> None:
        wide_s, narrow_s = (self._compute_s(gradient_bytes=g) for g in (4, 2))
        moved = 8 * 10 - 7 * 6
        self.assertAlmostEqual(
            (wide_s - narrow_s) /
            (self.held * moved / self.rates.memory_bytes_per_s), 1)

    def test_sharded_sums_are_parts(self) -> None:
        plain_s, sharded_s = (self._compute_s(dp=8, sharding=s)
                              for s in (DDP, FSDP))
        # Read in 16 bits and written in 32, all of it: 6 bytes.
        moved = 8 * (10 * (1 - 1 / 8) - 6)
        self.assertAlmostEqual(
            (plain_s - sharded_s) /
            (self.held * moved / self.rates.memory_bytes_per_s), 1)

    def test_sums_of_copies_move_each_gradient_again(self) -> None:
        # Cleared: 2 bytes. Added to: 2 read twice, 2 written. Converted: 2
        # read, 4 written. The sum: 4 read twice, 4 written. 26 and not 10.
        copied_s, plain_s = (self._compute_s(copied_accumulation=c)
                             for c in (True, False))
        self.assertAlmostEqual(
            (copied_s - plain_s) /
            (8 * 16 * self.held / self.rates.memory_bytes_per_s), 1)

    def test_parameters_are_copied_out_of_what_they_are_gathered_in(
            self) -> None:
        copied_s, plain_s = (self._compute_s(dp=8,
                                             sharding=FSDP,
                                             copied_gathers=c)
                             for c in (True, False))
        # Read and written, in 16 bits, for the forward and for the backward.
        self.assertAlmostEqual(
            (copied_s - plain_s) /
            (8 * 8 * self.held / self.rates.memory_bytes_per_s), 1)

    def test_frozen_weights_have_no_gradients(self) -> None:
        whole, frozen = (_step(dp=8, frozen=f) for f in (False, True))
        self.assertEqual(float(frozen.optimizer_s), 0)
        self.assertEqual(float(frozen.data_s[0]), 0)
        # The backward of products is as long as their forward.
        share = float(frozen.compute_s / whole.compute_s)
        self.assertTrue(2 / 3 - 0.02 < share < 0.75)


class TestHost(unittest.TestCase):

    def test_a_slow_host_is_waited_for(self) -> None:
        model = dataclasses.replace(llama_8b(), seq=16, vocab=512)

        def time_s(**choices: Any) -> float:
            plan = Configurations(**choices)
            hardware = Hardware.of(_CLUSTER, plan)
            return float(np.ravel(step_time(model, plan, hardware).time_s)[0])

        usual_s = time_s()
        self.assertGreater(time_s(host_factor=3.0) / usual_s, 1.5)
        self.assertAlmostEqual(time_s(step_host_s=0.04) - usual_s, 0.04)


class TestShards(unittest.TestCase):
    """State that part of the ranks of data divide."""

    def _data_s(self, **choices: Any) -> float:
        return float(
            _step(dp=64, sharding=ZERO1, overlap=False,
                  **choices).data_s.item())

    def test_groups_sum_over_all_and_gather_inside(self) -> None:
        plan = Configurations(dp=64, sharding=ZERO1, shard_group=8)
        hardware = Hardware.of(_CLUSTER, plan)
        held = stage_parameters(llama_8b(), plan)
        expected_s = (hardware.data.time_s("all_reduce", 4 * held) +
                      hardware.shard.time_s("all_gather", 2 * held))
        self.assertEqual(hardware.shard.size.item(), 8)
        self.assertAlmostEqual(
            self._data_s(shard_group=8) / expected_s.item(), 1)

    def test_sums_on_all_move_more_than_scattered_ones(self) -> None:
        scattered, summed = (_step(dp=64,
                                   overlap=False,
                                   sharding=ZERO1,
                                   whole_sums=w) for w in (False, True))
        plain = _step(dp=64, overlap=False, sharding=DDP)
        self.assertGreater(float(summed.data_s[0]), float(scattered.data_s[0]))
        self.assertGreater(float(summed.data_s[0]), float(plain.data_s[0]))

    def test_a_group_of_all_is_none(self) -> None:
        self.assertEqual(self._data_s(shard_group=64), self._data_s())
        self.assertEqual(self._data_s(shard_group=128), self._data_s())

    def test_whole_tensors_wait_for_each_other(self) -> None:
        # 9 tensors in each of 32 layers, on rings of 64.
        latency_s = _CLUSTER.tiers[-1].link.latency_s
        self.assertAlmostEqual(
            (self._data_s(whole_tensors=True) - self._data_s()) /
            (9 * 32 * 63 * latency_s), 1)


class TestTerms(unittest.TestCase):

    def test_softmax_of_odd_numbers_of_heads_is_many_kernels(self) -> None:
        """32 heads over 16 ranks: 2 of each sequence, in fours or not."""

        def softmax(micro_batch: int, tp: int, **choices: Any) -> Operator:
            plan = Configurations(micro_batch=micro_batch,
                                  tp=tp,
                                  fused_attention=False,
                                  **choices)
            return attention_core(llama_8b(), plan)[-1]

        self.assertEqual([int(softmax(b, 16).kernels) for b in (1, 2, 3, 4)],
                         [7, 2, 7, 2])
        ratio = softmax(1, 16).size_bytes / softmax(2, 16).size_bytes
        self.assertAlmostEqual(float(ratio), 21 / 4.5 / 2)
        # Half a head is no number of rows; other libraries have no such one.
        self.assertEqual(int(softmax(1, 64).kernels), 2)
        self.assertEqual(int(softmax(1, 16, fused_kernels=False).kernels), 5)

    def test_units_wait_for_the_last_tiles(self) -> None:
        rates = dataclasses.replace(Rates.of(_CLUSTER.device),
                                    wave_elements=1e6,
                                    launch_s=0.0)
        product = Operator(name="product",
                           kind="linear",
                           flops=8e9,
                           size_bytes=0.0,
                           summed=2000,
                           backward_summed=3000)
        rate = rates.matmul_flops_per_s
        for backward, flops in ((False, 8e9 + 2e9), (True, 16e9 + 3e9)):
            self.assertAlmostEqual(
                float(
                    operator_time.time_s(
                        [product], rates, Configurations(), backward=backward))
                * rate / flops, 1)
        small = dataclasses.replace(product, flops=1e9)
        self.assertAlmostEqual(
            float(
                operator_time.time_s(
                    [small], rates, Configurations(), backward=False)) * rate /
            2e9, 1)

    def test_the_backward_of_attention_is_slower_per_flop(self) -> None:
        rates = dataclasses.replace(Rates.of(_CLUSTER.device), launch_s=0.0)
        core = Operator(name="core",
                        kind="attention",
                        flops=1e12,
                        size_bytes=0.0)
        forward_s, backward_s = (float(
            operator_time.time_s([core], rates, Configurations(), backward=b))
                                 for b in (False, True))
        self.assertAlmostEqual(backward_s / forward_s, 2 / 0.8)

    def test_each_kernel_of_attention_has_its_rate(self) -> None:
        rates = dataclasses.replace(Rates.of(_CLUSTER.device),
                                    attention_flops_per_s=4e14,
                                    first_attention_flops_per_s=1e14,
                                    second_attention_flops_per_s=2e14,
                                    launch_s=0.0)
        core = Operator(name="core",
                        kind="attention",
                        flops=4e14,
                        size_bytes=0.0)
        plan = Configurations(attention_kernel=np.array([FIRST, SECOND, OWN]))
        np.testing.assert_allclose(
            operator_time.time_s([core], rates, plan, backward=False),
            [4, 2, 1])

    def test_attention_takes_longer_of_few_keys_and_narrow_heads(self) -> None:
        rates = dataclasses.replace(Rates.of(_CLUSTER.device),
                                    attention_flops_per_s=1e14,
                                    half_keys=256.0,
                                    exponentials=0.6,
                                    launch_s=0.0)
        core = Operator(name="core",
                        kind="attention",
                        flops=1e14,
                        size_bytes=0.0)

        def time_s(bits: int = 16, **sizes: float) -> float:
            return float(
                operator_time.time_s([dataclasses.replace(core, **sizes)],
                                     rates,
                                     Configurations(attention_bits=bits),
                                     backward=False))

        self.assertAlmostEqual(time_s(), 1.0)
        self.assertAlmostEqual(time_s(keys=256.0), 2.0)
        # Twice the exponentials for as many flops, and half of the rest.
        self.assertAlmostEqual(time_s(head_width=64.0), 0.4 + 2 * 0.6)
        self.assertAlmostEqual(time_s(8), 0.4 / 2 + 0.6)

    def test_operands_of_8_bits_are_written_twice(self) -> None:
        model, tokens = llama_8b(), float(llama_8b().seq)
        wide, narrow = (next(
            o for o in dense_layer(model, Configurations(linear_bits=b))
            if o.name == "mlp down") for b in (16, 8))
        weight = model.hidden * model.ffn
        rows_in, rows_out = tokens * model.ffn, tokens * model.hidden
        self.assertEqual(wide.size_bytes, 2 * (weight + rows_in + rows_out))
        self.assertEqual(narrow.size_bytes,
                         weight + rows_in + 2 * rows_out + 4 * rows_in)
        self.assertEqual(wide.in_backward[1], 2 * wide.size_bytes)
        self.assertEqual(
            narrow.in_backward[1], weight + 2 * rows_out + rows_in + 2 *
            (weight + rows_in) + 4 * rows_out)

    def test_a_scale_for_each_row_casts_operands_twice(self) -> None:
        model, tokens = llama_8b(), float(llama_8b().seq)
        one, each = (next(o for o in dense_layer(
            model, Configurations(linear_bits=8, row_scales=r))
                          if o.name == "mlp down") for r in (False, True))
        # Both times 4 bytes are read and 1 is written, and not 2 and 2 once.
        self.assertEqual(each.size_bytes - one.size_bytes,
                         6 * tokens * model.ffn)
        self.assertEqual(each.in_backward[1] - one.in_backward[1],
                         6 * tokens * model.hidden)

    def test_rows_travel_beside_another_micro_batch(self) -> None:
        model = llama_8b(experts=64,
                         top_k=2,
                         expert_ffn=2048,
                         expert_layers=32)
        choices = {"pp": 2, "dp": 32, "ep": 32, "num_microbatches": 4}
        alone, beside = (step_time(model, plan, Hardware.of(
            _CLUSTER,
            plan)) for plan in (Configurations(**choices, exchange_overlap=o)
                                for o in (False, True)))
        rates = Hardware.of(_CLUSTER, Configurations(**choices)).rates
        # Layers take longer than the exchange here, and get slower by it.
        self.assertGreater(alone.compute_s, alone.expert_s)
        np.testing.assert_allclose(beside.expert_s,
                                   rates.interference * alone.expert_s)
        self.assertEqual(beside.compute_s, alone.compute_s)

    def test_host_and_device_wait_for_each_other(self) -> None:
        self.assertAlmostEqual(float(queued_s(3.0, 4.0, 2.0)), 5.0)
        self.assertAlmostEqual(float(queued_s(4.0, 0.0, 2.0)), 4.0)

    def test_all_wait_for_the_slowest_device(self) -> None:
        # Of 8 normal numbers the largest is 1.43 deviations over the mean.
        self.assertEqual(float(slowest(1, 0.02)), 1.0)
        self.assertAlmostEqual(float(slowest(8, 0.02)), 1.0286, places=3)
        plan = Configurations(tp=8)
        variation = _CLUSTER.device.coefficient("variation", 0.0)
        slow, fast = (step_time(llama_8b(), plan, h)
                      for h in (Hardware.of(_CLUSTER, plan),
                                _equal_devices(plan)))
        self.assertAlmostEqual(float((slow.compute_s / fast.compute_s).item()),
                               float(slowest(_CLUSTER.num_devices, variation)))
        self.assertEqual(float(slow.tensor_s[0]), float(fast.tensor_s[0]))

    def test_the_host_launches_collectives_and_the_loss(self) -> None:
        # So slow a host that its launches are all of the time: a layer's
        # kernels, two sums each way; head, loss and embedding with two sums
        # of activations and three of a number a token.
        plan = Configurations(tp=8)
        hardware = Hardware.of(_CLUSTER, plan)
        rates = dataclasses.replace(hardware.rates,
                                    dispatch_s=1.0,
                                    queue_order=20.0)
        model = llama_8b()
        found = step_time(model, plan,
                          dataclasses.replace(hardware, rates=rates))

        def both(ops: list[Operator]) -> float:
            return sum(
                float(operator_time.kernels(ops, backward=b))
                for b in (False, True))

        layer = both(dense_layer(model, plan)) + 4
        ends = both(head(model, plan)) + both(embedding(model, plan)) + 5
        whole_s = float((found.compute_s + found.host_s + found.tensor_s)[0])
        self.assertAlmostEqual(whole_s / (model.layers * layer + ends),
                               1,
                               delta=1e-6)

    def test_a_width_that_64_divides_is_aligned(self) -> None:
        self.assertEqual([int(halvings(n)) for n in (128, 216, 108, 150)],
                         [0, 3, 4, 5])

    def test_shares_slow_the_links_of_their_axis(self) -> None:
        plan = Configurations(tp=8, dp=8)
        axis = Hardware.of(_CLUSTER, plan).tp
        half = axis.slowed(0.5, point=0.5)
        np.testing.assert_allclose(half.link.rate_bytes_per_s,
                                   axis.link.rate_bytes_per_s / 2)

    def test_rows_go_once_to_each_node(self) -> None:
        plan = Configurations(dp=64, ep=64)
        axis = Hardware.of(_CLUSTER, plan).ep
        # 8 nodes, 8 copies: 7 (1 - (7/8)^8) of 7 go out.
        self.assertAlmostEqual(float(axis.distinct_islands(8)[0]),
                               1 - (7 / 8)**8)

    def test_rows_go_once_to_each_rank_of_a_rack(self) -> None:
        plan = Configurations(dp=32, ep=32)
        axis = Hardware.of(load_cluster("gb300-nvl72:32"), plan).ep
        # All links of 8 nodes are alike: 31 (1 - (31/32)^8) of 8 31/32 go out.
        self.assertAlmostEqual(float(axis.distinct_islands(8)[0]),
                               32 * (1 - (31 / 32)**8) / 8)

    def test_experts_take_ranks_of_tp_where_they_need_them(self) -> None:
        plan = Configurations(tp=2, dp=4, ep=8)
        self.assertEqual(float(Hardware.of(_CLUSTER, plan).ep.size[0]), 8)


if __name__ == "__main__":
    unittest.main()
