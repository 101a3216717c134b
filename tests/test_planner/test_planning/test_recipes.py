"""Recipes produce the collectives that their papers describe."""

from __future__ import annotations

from collections import Counter
from unittest import TestCase

import torch
from torch import nn
from torch.nn import functional as F

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.layout import R
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe, policies_for
from tests.test_planner.test_planning.programs import (large_gpt2, large_llama,
                                                       planning_on)

_SEQUENCE_PARALLEL = RECIPES["megatron"](sequence_parallel=True)


def _run(program: Program, recipe: Recipe, axis: str) -> Candidate:
    return planning_on(program, 8).from_recipe(recipe, MeshSpec((axis, ),
                                                                (8, )))


def _per_layer(candidate: Candidate) -> Counter[tuple[str, str]]:
    """(direction, collective) of one repeated block to how many."""
    return Counter((c.direction, c.kind) for c in candidate.price.collectives
                   if c.count == 3)


class _Block(nn.Module):

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width)
                                                      for _ in range(4))
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm_1(x)
        q, k, v = (m(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for m in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class _Transformer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32000, 2048)
        self.layers = nn.ModuleList(_Block(2048, 16) for _ in range(3))
        self.head = nn.Linear(2048, 32000, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class _Norm(nn.Module):
    """As Gemma has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:]) * (1.0 + self.weight.float())


def _plain_norm() -> Program:
    with torch.device("meta"):
        model = _Norm(5376).to(torch.bfloat16)
        x = torch.zeros(128, 5376)
    return capture(model, (x, x), loss_fn=F.mse_loss)


def _plain_transformer() -> Program:
    with torch.device("meta"):
        model = _Transformer().to(torch.bfloat16)
        ids = torch.zeros(16, 2048, dtype=torch.int64)
    return capture(
        model, (ids, ids),
        loss_fn=lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()))


class TestMegatron(TestCase):

    def test_two_all_reduces_each_way(self) -> None:
        for program in (large_llama(), _plain_transformer()):
            with self.subTest(program.model_name):
                found = _run(program, RECIPES["megatron"](), "tp")
                self.assertEqual(_per_layer(found), {
                    ("forward", "all_reduce"): 2,
                    ("backward", "all_reduce"): 2
                })

    def test_columns_then_rows(self) -> None:
        found = _run(large_llama(), RECIPES["megatron"](), "tp")
        rest = found.layout.at_rest
        layer = "param:model.layers.1."
        for name, dim in (("self_attn.q_proj", 0), ("self_attn.k_proj", 0),
                          ("self_attn.v_proj", 0), ("self_attn.o_proj", 1),
                          ("mlp.gate_proj", 0), ("mlp.up_proj",
                                                 0), ("mlp.down_proj", 1)):
            placement = rest[f"{layer}{name}.weight"][0]
            self.assertEqual(str(placement), f"S({dim})", name)
        self.assertEqual(rest[f"{layer}input_layernorm.weight"], (R, ))

    def test_sequence_parallel(self) -> None:
        found = _per_layer(_run(large_llama(), _SEQUENCE_PARALLEL, "tp"))
        norms = found.pop(("backward", "all_reduce"))
        self.assertEqual(norms, 2)
        self.assertEqual(
            found, {
                (direction, kind): 2
                for direction in ("forward", "backward")
                for kind in ("all_gather", "reduce_scatter")
            })

    def test_tables_are_divided_beside_any_data_parallelism(self) -> None:
        program, mesh = _plain_transformer(), MeshSpec(("dp", "tp"), (4, 2))
        for name in ("ddp", "zero1", "fsdp"):
            with self.subTest(name):
                found = planning_on(program, 8).from_recipe(
                    RECIPES[name]() * RECIPES["megatron"](), mesh)
                table = found.layout.at_rest["param:embed.weight"]
                self.assertEqual(str(table[1]), "S(0)")

    def test_divides_every_product_of_gpt2(self) -> None:
        found = _run(large_gpt2(), RECIPES["megatron"](), "tp")
        self.assertEqual([
            r.call for r in found.price.repeated
            if "addmm" in r.call or "attention" in r.call
        ], [])


class TestData(TestCase):

    def test_ddp_reduces_gradients_alone(self) -> None:
        program = large_llama()
        found = _run(program, RECIPES["ddp"](), "dp")
        per_layer = [c for c in found.price.collectives if c.count == 3]
        self.assertEqual({(c.direction, c.kind)
                          for c in per_layer}, {("backward", "all_reduce")})
        reduced = sum(c.size_bytes * c.count for c in found.price.collectives
                      if c.direction == "backward")
        self.assertEqual(
            reduced, sum(program.specs[n].size_bytes for n in program.params))

    def test_fsdp_gathers_twice(self) -> None:
        found = _run(large_llama(), RECIPES["fsdp"](), "dp")
        self.assertEqual(
            _per_layer(found), {
                ("forward", "all_gather"): 9,
                ("regather", "all_gather"): 9,
                ("backward", "reduce_scatter"): 9
            })
        self.assertEqual(len(found.layout.regather), len(large_llama().params))

    def test_zero1_gathers_once(self) -> None:
        found = _run(large_llama(), RECIPES["zero1"](), "dp")
        self.assertEqual(_per_layer(found), {
            ("forward", "all_gather"): 9,
            ("backward", "reduce_scatter"): 9
        })

    def test_weights_of_norms_are_gathered_not_summed(self) -> None:
        """A small collective costs its latency, which is less for a sum
        than for a ring; but gathers are packed."""
        planning = Planning(_plain_norm(), load_cluster("h100-sxm:16x8"))
        mesh = MeshSpec(("dp", ), (128, ))
        for name in ("zero1", "fsdp"):
            found = planning.from_recipe(RECIPES[name](), mesh)
            # The loss is summed, too.
            kinds = {(c.direction, c.kind)
                     for c in found.price.collectives if c.size_bytes > 1e3}
            self.assertIn(("forward", "all_gather"), kinds)
            self.assertNotIn(("forward", "all_reduce"), kinds)


class TestExpert(TestCase):

    def test_a_dense_model_is_data_parallel(self) -> None:
        """Gradients go in buckets behind the backward over any axis."""
        for program in (large_llama(), large_gpt2()):
            spread = _run(program, RECIPES["expert"](), "ep")
            data = _run(program, RECIPES["ddp"](), "dp")
            self.assertEqual(spread.time_s, data.time_s)
            self.assertEqual(spread.memory, data.memory)
            step = spread.price.step
            assert step is not None
            self.assertLess(step.exposed_s, spread.price.communication_s / 2)
            self.assertLess(spread.run_s, spread.summed_s)


class TestSequence(TestCase):

    def test_ulysses_exchanges_heads(self) -> None:
        found = _per_layer(_run(large_llama(), RECIPES["ulysses"](), "cp"))
        self.assertEqual(
            found, {
                ("forward", "all_to_all"): 4,
                ("backward", "all_to_all"): 4,
                ("backward", "all_reduce"): 9
            })

    def test_gather_kv(self) -> None:
        found = _per_layer(_run(large_llama(), RECIPES["gather_kv"](), "cp"))
        self.assertEqual(
            found, {
                ("forward", "all_gather"): 2,
                ("backward", "reduce_scatter"): 2,
                ("backward", "all_reduce"): 9
            })


class TestPolicies(TestCase):

    def test_axes_by_name(self) -> None:
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        recipe = RECIPES["fsdp"]() * _SEQUENCE_PARALLEL
        self.assertEqual([p.name for p in policies_for(recipe, mesh)],
                         ["fsdp", "megatron-sp"])

    def test_single_axis_of_any_name(self) -> None:
        mesh = MeshSpec(("x", ), (2, ))
        self.assertEqual(policies_for(RECIPES["ddp"](), mesh)[0].name, "ddp")

    def test_refusals(self) -> None:
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        ddp, fsdp, tp = (RECIPES[n]() for n in ("ddp", "fsdp", "megatron"))
        for recipe, text in ((ddp, "no recipe uses axis 'tp'"),
                             (ddp * fsdp * tp, "both want axis 'dp'"),
                             (ddp * RECIPES["ulysses"](),
                              "wants an axis 'cp'")):
            with self.assertRaisesRegex(ValueError, text):
                policies_for(recipe, mesh)
