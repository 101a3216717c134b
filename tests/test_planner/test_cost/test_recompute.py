"""Price and memory of blocks that run again in the backward."""

from __future__ import annotations

import functools
from collections import Counter
from unittest import TestCase

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cost.calls import known_calls
from planner.cost.rerun import rerun
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe, policies_for
from tests.test_planner.test_planning.programs import (large_llama,
                                                       planning_on,
                                                       slow_cluster)


class Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 64, bias=False)
        self.down = nn.Linear(64, 16, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


class Dropping(Layer):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.drop(torch.relu(self.up(x))))


@functools.cache
def _planning(name: str) -> Planning:
    """Two layers behind one that makes their input differentiable."""
    layer = {"Layer": Layer, "Dropping": Dropping}[name]
    model = nn.Sequential(nn.Linear(16, 16, bias=False), layer(), layer())
    program = capture(model, (torch.zeros(8, 16), torch.zeros(8, 16)),
                      loss_fn=nn.functional.mse_loss)
    return Planning(program, slow_cluster(2, 1e9))


def _both(planning: Planning, recipe: Recipe, mesh: MeshSpec,
          name: str) -> tuple[Candidate, Candidate]:
    policies = policies_for(recipe, mesh)
    kept, again = (planning.candidate(mesh, policies, recompute=classes)
                   for classes in ((), (name, )))
    return kept, again


class TestRerun(TestCase):

    def test_last_product_runs_once(self) -> None:
        calls = known_calls(_planning("Layer").program)["Layer"]
        again = rerun(calls)
        self.assertEqual(again.calls, {"up.linear", "relu"})
        given = {v.label for v in again.reads if v.node.op == "placeholder"}
        self.assertEqual(given, {"in", "up.weight", "down.weight"})

    def test_random_numbers_are_drawn_again(self) -> None:
        again = rerun(known_calls(_planning("Dropping").program)["Dropping"])
        self.assertEqual(again.calls,
                         {"up.linear", "relu", "drop.native_dropout"})


class TestByHand(TestCase):
    """Two layers on half the batch of 8: 1 GFLOP/s, 10 GB/s, 10 ns."""

    _mesh = MeshSpec(("dp", ), (2, ))

    def _pair(self,
              recipe: str,
              name: str = "Layer") -> tuple[Candidate, Candidate]:
        return _both(_planning(name), RECIPES[recipe](), self._mesh, name)

    def test_time(self) -> None:
        kept, again = self._pair("ddp")
        up_s = 2 * 4 * 16 * 64 / 1e9 + 1e-8
        relu_s = 2 * 4 * 64 * 4 / 1e10 + 1e-8
        self.assertEqual(kept.price.recompute_s, 0.0)
        self.assertAlmostEqual(again.price.recompute_s,
                               2 * (up_s + relu_s),
                               delta=1e-15)
        self.assertAlmostEqual(again.price.time_s - kept.price.time_s,
                               again.price.recompute_s,
                               delta=1e-15)

    def test_parameters_are_gathered_as_often(self) -> None:
        for recipe in ("fsdp", "zero1"):
            kept, again = self._pair(recipe)
            self.assertEqual(again.price.collectives, kept.price.collectives)

    def test_memory(self) -> None:
        kept, again = self._pair("ddp")
        x, hidden = 4 * 16 * 4, 4 * 64 * 4
        self.assertEqual(kept.memory.saved - again.memory.saved, 2 * hidden)
        # One block's saved values, while its backward runs.
        self.assertEqual(again.memory.transient - kept.memory.transient,
                         x + hidden)

    def test_masks_are_not_kept(self) -> None:
        (kept, again), (_, plain) = (self._pair("ddp", c)
                                     for c in ("Dropping", "Layer"))
        self.assertEqual(again.memory.saved, plain.memory.saved)
        self.assertLess(again.memory.saved, kept.memory.saved)

    def test_names(self) -> None:
        kept, again = self._pair("fsdp")
        self.assertEqual(kept.name, "fsdp(dp=2)")
        self.assertEqual(again.name, "fsdp(dp=2), recomputing Layer")


class TestCollectives(TestCase):

    def test_conversions_inside_blocks_run_again(self) -> None:
        """All but the reduction of the block's last product."""
        found = {}
        for sequence in (False, True):
            _, again = _both(planning_on(large_llama(), 8),
                             RECIPES["megatron"](sequence_parallel=sequence),
                             MeshSpec(("tp", ), (8, )), "LlamaDecoderLayer")
            found[sequence] = Counter(c.kind for c in again.price.collectives
                                      if c.direction == "recompute")
        self.assertEqual(found[False], {"all_reduce": 1})
        self.assertEqual(found[True], {"all_gather": 2, "reduce_scatter": 1})

    def test_shared_operands_are_kept_once(self) -> None:
        planning, mesh = planning_on(large_llama(), 8), MeshSpec(("dp", ),
                                                                 (8, ))
        found = planning.candidate(mesh,
                                   policies_for(RECIPES["ddp"](), mesh),
                                   recompute=tuple(planning.program.classes))
        hidden, rotary = 2 * 2048 * 4096 * 2, 2048 * 128 * 2
        # Into three layers and the head, and a sine and a cosine for all.
        self.assertEqual(found.memory.saved, 4 * hidden + 2 * rotary)
