"""The formulas against the price of a captured program."""

from __future__ import annotations

import functools
import unittest

from planner.candidate import Candidate
from planner.cluster import load_cluster
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.ends import head
from planner.cost.analytic.hardware import Hardware
from planner.cost.analytic.layers import dense_layer
from planner.cost.analytic.shares import stage_parameters
from planner.cost.analytic.step import step_time
from planner.cost.analytic.transformer import Transformer
from planner.cost.calls import KnownCall, known_calls
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_cost.test_analytic.models import llama_8b
from tests.test_planner.test_planning.programs import large_gpt2, large_llama

_LLAMA = "LlamaDecoderLayer"


def _llama() -> Transformer:
    """What `large_llama` is: three layers, 2048 tokens."""
    return llama_8b(layers=3, vocab=32000, seq=2048)


def _gpt2() -> Transformer:
    """What `large_gpt2` is, save for the biases and the positions."""
    return Transformer(layers=3,
                       hidden=2048,
                       heads=16,
                       kv_heads=16,
                       qk_dim=128,
                       v_dim=128,
                       qkv_parameters=3 * 2048 * 2048,
                       ffn=8192,
                       vocab=32000,
                       seq=2048,
                       tied=True)


@functools.cache
def _candidate(recipe: str, axis: str) -> Candidate:
    planning = Planning(large_llama(), load_cluster("h100-sxm:1x2"))
    return planning.from_recipe(RECIPES[recipe](), MeshSpec((axis, ), (2, )))


def _bytes(candidate: Candidate, kind: str, direction: str) -> float:
    return sum(
        c.size_bytes * c.count for c in candidate.price.collectives
        if (c.kind, c.direction) == (kind, direction) and c.size_bytes > 4)


class TestWork(unittest.TestCase):

    def _check(self, calls: list[KnownCall], model: Transformer,
               tolerance: float) -> None:
        ops = dense_layer(model, Configurations(micro_batch=16))
        products = [c for c in calls if c.work.kind != "memory"]
        pairs = {
            "flops": (sum(o.flops for o in ops),
                      sum(c.work.forward_flops for c in products)),
            "backward flops": (sum(o.in_backward[0] for o in ops),
                               sum(c.work.backward_flops for c in products)),
        }
        for name, (formula, graph) in pairs.items():
            with self.subTest(name):
                self.assertAlmostEqual(float(formula) / graph, 1, delta=1e-3)
        moved = sum(o.size_bytes for o in ops
                    if o.kind in ("linear", "attention"))
        # One product for queries, keys and values reads its input once.
        graph_bytes = sum(c.work.forward_bytes for c in products)
        self.assertAlmostEqual(float(moved) / graph_bytes, 1, delta=tolerance)

    def test_a_llama_layer(self) -> None:
        calls = known_calls(large_llama())[_LLAMA]
        self._check(list(calls), _llama(), 0.15)

    def test_a_gpt2_layer(self) -> None:
        calls = known_calls(large_gpt2())["GPT2Block"]
        self._check(list(calls), _gpt2(), 0.05)

    def test_memory_bound_bytes_of_eager_kernels(self) -> None:
        # Eager rotary embeddings and norms in 32 bits vary between
        # libraries: the same order, and fused kernels below both.
        calls = known_calls(large_llama())[_LLAMA]
        graph = sum(c.work.forward_bytes for c in calls)
        eager, fused = (float(
            sum(o.size_bytes for o in dense_layer(
                _llama(), Configurations(micro_batch=16, fused_kernels=f))))
                        for f in (False, True))
        self.assertLess(fused, eager)
        self.assertAlmostEqual(eager / graph, 1, delta=0.4)

    def test_the_head(self) -> None:
        ops = head(_llama(), Configurations(micro_batch=16))
        calls = known_calls(large_llama())["LlamaForCausalLM_2"]
        self.assertEqual(float(sum(o.flops for o in ops)),
                         sum(c.work.forward_flops for c in calls))


class TestCollectives(unittest.TestCase):

    def test_gradients_of_data_parallelism(self) -> None:
        held = stage_parameters(_llama(), Configurations(dp=2))
        graph = _bytes(_candidate("ddp", "dp"), "all_reduce", "backward")
        self.assertAlmostEqual(2 * float(held) / graph, 1, delta=1e-3)

    def test_parameters_of_full_sharding(self) -> None:
        held = stage_parameters(_llama(), Configurations(dp=2))
        candidate = _candidate("fsdp", "dp")
        for kind, direction in (("all_gather", "forward"),
                                ("all_gather", "regather"), ("reduce_scatter",
                                                             "backward")):
            with self.subTest(direction):
                self.assertAlmostEqual(2 * float(held) /
                                       _bytes(candidate, kind, direction),
                                       1,
                                       delta=1e-3)

    def test_sums_of_tensor_parallelism_take_as_long(self) -> None:
        candidate = _candidate("megatron", "tp")
        graph_s = sum(c.time_s for c in candidate.price.collectives)
        cluster = load_cluster("h100-sxm:1x2")
        plan = Configurations(tp=2, micro_batch=16)
        hardware = Hardware.of(cluster, plan)
        found = step_time(_llama(), plan, hardware)
        # The recipe's loss reads whole logits: four sums a layer, one after
        # the embedding and one before the head.
        tokens = 16 * _llama().seq
        extra_s = 3 * hardware.tp.time_s("all_reduce", 4 * tokens)
        self.assertAlmostEqual(float(found.tensor_s[0] - extra_s[0]) / graph_s,
                               1,
                               delta=0.01)


if __name__ == "__main__":
    unittest.main()
