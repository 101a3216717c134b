"""What the lessons say that a strategy sends is what the planner prices."""

from __future__ import annotations

import functools
import unittest
from fractions import Fraction

from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe
from scaletorch import parallel
from scaletorch.parallel.example import Attention, Mixture, Perceptron, Stack
from scaletorch.parallel.example import inputs as example
from tests.tree import ROOT

RANKS = 4
SENT = Fraction(RANKS - 1, RANKS)
"""Of each byte of an all-gather, a reduce-scatter or an all-to-all."""
A = 2 * 8192 * 1024 * 4


@functools.cache
def program(kind: type[nn.Module], depth: int) -> Program:
    return capture(Stack(kind, depth=depth), example())


def parameters(kind: type[nn.Module]) -> int:
    layer = Stack(kind, depth=1).layers[0]
    return sum(p.numel() * p.element_size() for p in layer.parameters())


class TestBytes(unittest.TestCase):

    def sent(self,
             recipe: Recipe,
             kind: type[nn.Module],
             depth: int = 2) -> Fraction:
        """Bytes that a rank sends for one layer in a step."""
        mesh = MeshSpec((recipe.parts[0][0], ), (RANKS, ))
        chosen = Planning(program(kind, depth),
                          load_cluster("h100-sxm").resized(RANKS)).from_recipe(
                              recipe, mesh)
        total = Fraction(0)
        for c in chosen.price.collectives:
            if c.where == kind.__name__:
                self.assertEqual(c.count, depth)
                share = SENT * {
                    "all_reduce": Fraction(2),
                    "all_to_all": Fraction(1, RANKS)
                }.get(c.kind, Fraction(1))
                total += int(c.size_bytes) * share
        return total

    def check(self,
              found: Fraction,
              expected: Fraction,
              *,
              within: float = 1e-3) -> None:
        self.assertLess(abs(found / expected - 1), within)

    def test_data(self) -> None:
        size = parameters(Perceptron)
        self.check(self.sent(parallel.ddp(), Perceptron), 2 * SENT * size)
        self.check(self.sent(parallel.fsdp(), Perceptron), 3 * SENT * size)
        self.check(self.sent(parallel.zero1(), Perceptron), 2 * SENT * size)

    def test_tensor(self) -> None:
        for deep in (False, True):
            recipe = parallel.megatron(sequence_parallel=deep)
            self.check(self.sent(recipe, Perceptron, 8), 4 * SENT * A)

    def test_context(self) -> None:
        summed = 2 * SENT * parameters(Attention)
        self.check(
            self.sent(parallel.ulysses(), Attention) - summed,
            2 * SENT * (2 * A + 2 * A) / RANKS)
        self.check(
            self.sent(parallel.gather_kv(), Attention) - summed,
            2 * SENT * 2 * A)

    def test_experts(self) -> None:
        summed = 2 * SENT * 8 * 1024 * 4
        # Tokens go with their weights and the number of their expert.
        self.check(self.sent(parallel.expert(), Mixture) - summed,
                   4 * SENT * 2 * A / RANKS,
                   within=0.01)


class TestLessons(unittest.TestCase):

    def test_every_recipe_has_one(self) -> None:
        texts = [
            p.read_text(encoding="utf-8")
            for p in (ROOT / "scaletorch/parallel").glob("*.py")
        ]
        for name, builder in RECIPES.items():
            self.assertIs(getattr(parallel, name), builder)
            drawn = [t for t in texts if f"{name}(" in t and "**Wins**" in t]
            self.assertTrue(drawn, name)


if __name__ == "__main__":
    unittest.main()
