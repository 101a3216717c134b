from __future__ import annotations

import dataclasses
import unittest

from planner.cost.analytic.configurations import (ALTERNATE, DDP, FSDP, FULL,
                                                  NONE, ZERO1, ZERO2,
                                                  Configurations)
from planner.cost.analytic.memory import (layer_activation_bytes,
                                          reserved_bytes, step_memory)
from planner.cost.analytic.shares import stage_parameters
from planner.cost.analytic.transformer import Transformer
from tests.test_planner.test_cost.test_analytic.models import llama_8b


def _gpt() -> Transformer:
    return Transformer(layers=12,
                       hidden=1024,
                       heads=16,
                       kv_heads=16,
                       qk_dim=64,
                       v_dim=64,
                       qkv_parameters=3 * 1024 * 1024,
                       ffn=4096,
                       vocab=51200,
                       seq=1024)


class TestActivations(unittest.TestCase):

    def test_published_formula_of_a_layer(self) -> None:
        # Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h).
        plan = Configurations(micro_batch=2,
                              fused_attention=False,
                              dropout=True)
        tokens, hidden = 2 * 1024, 1024
        found = float(layer_activation_bytes(_gpt(), plan))
        self.assertAlmostEqual(
            found / (tokens * hidden * (34 + 5 * 16 * 1024 / 1024)), 1)

    def test_tensor_and_sequence_parallelism_divide_all(self) -> None:
        one, four = (float(
            layer_activation_bytes(
                _gpt(), Configurations(tp=tp, sequence_parallel=tp > 1)))
                     for tp in (1, 4))
        self.assertAlmostEqual(one / four, 4)


class TestState(unittest.TestCase):

    def _total(self, sharding: int) -> float:
        memory = step_memory(llama_8b(),
                             Configurations(dp=8, sharding=sharding),
                             last_stage=True)
        return float(memory.parameters + memory.gradients + memory.optimizer)

    def test_sharding_divides_step_by_step(self) -> None:
        held = float(stage_parameters(llama_8b(), Configurations(dp=8)))
        self.assertAlmostEqual(self._total(DDP), held * 18)
        self.assertAlmostEqual(self._total(ZERO1), held * (6 + 12 / 8))
        self.assertAlmostEqual(self._total(ZERO2), held * (2 + 16 / 8))
        self.assertAlmostEqual(self._total(FSDP), held * 18 / 8)

    def test_groups_hold_copies_of_the_state(self) -> None:
        plans = [
            Configurations(dp=64, sharding=ZERO1, shard_group=g)
            for g in (0, 8)
        ]
        all_, group = (step_memory(llama_8b(), p, last_stage=True).optimizer
                       for p in plans)
        self.assertAlmostEqual(float(group) / float(all_), 8)

    def test_recomputation_keeps_less(self) -> None:
        plain, again = (float(
            step_memory(llama_8b(),
                        Configurations(recompute=r),
                        last_stage=True).total_bytes) for r in (NONE, FULL))
        self.assertLess(again, plain)

    def test_the_process_takes_more_than_its_tensors(self) -> None:
        memory = step_memory(llama_8b(), Configurations(), last_stage=True)
        allocator, process = (float(reserved_bytes(memory, context=c))
                              for c in (False, True))
        self.assertGreater(allocator, float(memory.total_bytes))
        self.assertEqual(process - allocator, 1.5 * 2**30)

    def test_alternate_recomputation_keeps_half_of_the_products(self) -> None:
        none, kept, full = (float(
            step_memory(llama_8b(),
                        Configurations(recompute=r),
                        last_stage=True).activations)
                            for r in (NONE, ALTERNATE, FULL))
        self.assertTrue(full < kept < 0.5 * none)
        # In 16 bits: what comes in and goes out, queries and the result of
        # attention, values of 8 heads, and one of the MLP's inner ones.
        model = llama_8b()
        layer = 2 * model.seq * (2 * 4096 + 2 * 4096 + 1024 + model.ffn)
        entry = 2 * model.seq * 4096
        self.assertAlmostEqual(kept, 32 * layer + entry)

    def test_gradients_made_anew_are_not_there_at_the_loss(self) -> None:
        model = llama_8b()
        plan = Configurations(recompute=FULL, gradient_bytes=2)
        held, fresh = (step_memory(model,
                                   dataclasses.replace(plan,
                                                       fresh_gradient_bytes=n,
                                                       loss_bytes=14,
                                                       micro_batch=b),
                                   last_stage=True)
                       for n, b in ((0, 16), (2, 16)))
        gradients = 2 * float(stage_parameters(model, plan))
        self.assertAlmostEqual(
            float(held.total_bytes - fresh.total_bytes) / gradients, 1)
        # With few tokens the peak is at the end of the backward.
        few = step_memory(model,
                          dataclasses.replace(plan, fresh_gradient_bytes=2),
                          last_stage=True)
        self.assertAlmostEqual(float(few.gradients) / gradients, 1)
        self.assertEqual(float(few.activations), 0)
        # With a second micro-batch the first one's gradients are there.
        again = step_memory(model,
                            dataclasses.replace(plan,
                                                fresh_gradient_bytes=2,
                                                micro_batch=16,
                                                num_microbatches=2),
                            last_stage=True)
        self.assertAlmostEqual(float(again.gradients) / gradients, 1)
        self.assertGreater(float(again.activations), 0)

    def test_gradients_may_be_held_otherwise_than_they_are_reduced(
            self) -> None:
        plain, wide = (step_memory(llama_8b(),
                                   Configurations(held_gradient_bytes=n,
                                                  bucket_bytes=b),
                                   last_stage=True)
                       for n, b in ((0, 0), (6, 1e9)))
        self.assertAlmostEqual(
            float(wide.gradients) / float(plain.gradients), 6 / 4)
        self.assertEqual(float(wide.gathered) - float(plain.gathered), 1e9)

    def test_frozen_weights_have_no_state(self) -> None:
        memory = step_memory(llama_8b(),
                             Configurations(frozen=True),
                             last_stage=True)
        self.assertEqual(float(memory.gradients), 0)
        self.assertEqual(float(memory.optimizer), 0)
        self.assertGreater(float(memory.parameters), 0)

    def test_gathered_logits_are_not_divided(self) -> None:
        whole, part = (float(
            step_memory(llama_8b(),
                        Configurations(tp=4, whole_logits=w),
                        last_stage=True).transient) for w in (True, False))
        logits = 6 * float(llama_8b().seq) * float(llama_8b().vocab)
        self.assertAlmostEqual(whole - part, logits * 3 / 4)

    def test_kernels_by_themselves_keep_copies(self) -> None:
        one, many = (float(
            layer_activation_bytes(llama_8b(),
                                   Configurations(fused_kernels=f)))
                     for f in (True, False))
        model = llama_8b()
        self.assertAlmostEqual(
            many - one,
            float(model.seq * (2 * 4 * model.hidden + 2 * model.ffn)))

    def test_experts_are_divided_over_ep(self) -> None:
        routed = llama_8b(experts=8,
                          top_k=2,
                          expert_ffn=1024,
                          expert_layers=32)
        one, four = (float(
            step_memory(routed, Configurations(dp=4, ep=ep),
                        last_stage=True).parameters) for ep in (1, 4))
        experts = 32 * 8 * 3 * 4096 * 1024
        self.assertAlmostEqual(one - four, 2 * experts * 3 / 4)

    def test_ranks_that_divide_experts_have_all_their_rows(self) -> None:
        routed = llama_8b(experts=8,
                          top_k=2,
                          expert_ffn=1024,
                          expert_layers=32)
        divided, whole = (float(
            layer_activation_bytes(routed, Configurations(tp=4, expert_tp=n)))
                          for n in (4, 1))
        # What products read and give, in 16 bits, of one and a half times
        # the mean rank's rows.
        rows = 1.5 * 2 * float(routed.seq)
        self.assertAlmostEqual(divided - whole,
                               2 * 2 * rows * 4096 * (1 - 1 / 4))


if __name__ == "__main__":
    unittest.main()
