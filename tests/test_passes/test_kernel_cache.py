from __future__ import annotations

import gc
import unittest
import weakref

import torch
from torch import nn
from torch.nn import functional as F

from passes.collectives import AxisRef
from passes.kernel_cache import NotedAxis
from passes.lower import RankProgram, lower
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES

CPU = torch.device("cpu")


class Tagger(nn.Module):
    """A table of words, which megatron divides, below a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids))


def captured() -> Program:
    ids = torch.arange(8).reshape(2, 4)
    return capture(
        Tagger(), (ids, ids % 6),
        loss_fn=lambda y, t: F.cross_entropy(y.flatten(0, 1), t.flatten()))


def planned(program: Program) -> ProgramLayout:
    """Samples are divided over one axis, words over the other."""
    planning = Planning(program, load_cluster("cpu-gloo").resized(4))
    mesh = MeshSpec(("dp", "tp"), (2, 2))
    recipe = RECIPES["ddp"]() * RECIPES["megatron"]()
    chosen = planning.from_recipe(recipe, mesh)
    return planning.plan_of(chosen).resolve(program)


class TestNotedAxis(unittest.TestCase):

    def test_notes_what_depends_on_the_coordinate(self) -> None:
        plain = AxisRef(name="x", size=2, coordinate=1)
        noted = NotedAxis.of(plain)
        self.assertEqual((noted.divisor, noted.whole(3)), (2, 6))
        self.assertFalse(noted.asked)
        self.assertEqual(noted.part(6), (3, 3))
        self.assertTrue(noted.asked)

    def test_unequal_parts_depend_on_it(self) -> None:
        noted = NotedAxis.of(
            AxisRef(name="x", size=2, coordinate=1, shares=(1, 3)))
        self.assertEqual(noted.whole(3), 4)
        self.assertTrue(noted.asked)


class TestKernelCache(unittest.TestCase):

    def test_ranks_share_what_their_place_does_not_change(self) -> None:
        program = captured()
        layout = planned(program)
        ranks: list[RankProgram] = [
            lower(program, layout, r, device=CPU) for r in range(4)
        ]
        name, = program.classes
        first, *others = [r.kernels[name] for r in ranks]
        # Which words are a rank's own is decided by its place on `tp`.
        self.assertIs(others[1], first)
        self.assertIsNot(others[0], first)
        self.assertIs(others[2], others[0])

    def test_another_layout_is_lowered_anew(self) -> None:
        program = captured()
        layout = planned(program)
        kernels = lower(program, layout, 0, device=CPU).kernels
        again = lower(program, layout, 0, device=CPU,
                      differentiated=()).kernels
        name, = program.classes
        self.assertIsNot(again[name], kernels[name])

    def test_kernels_go_with_their_program(self) -> None:
        program = captured()
        graph = weakref.ref(next(iter(program.classes.values())).graph)
        lower(program, planned(program), 0, device=CPU)
        del program
        gc.collect()
        self.assertIsNone(graph())


if __name__ == "__main__":
    unittest.main()
