"""Experts in a finished graph cost what they cost before it was lowered."""

from __future__ import annotations

import unittest

import torch

from passes.lower import lower
from planner.cluster import axis_link
from planner.cluster.coefficients import COEFFICIENTS
from planner.cost.experts import ExpertSizes
from planner.cost.graph import GraphCost, cost_of_graph
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ops.gates import ACTIVATIONS
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import planning_on, zoo

MESH = MeshSpec(("ep", ), (2, ))
ROWS, WIDTH, INNER, EXPERTS = 4 * 16 * 2, 32, 64, 4


def costs(planning: Planning,
          layout: ProgramLayout) -> tuple[GraphCost, GraphCost]:
    """Of a layer of experts, forward and backward."""
    lowered = lower(planning.program, layout, 0, device=torch.device("cpu"))
    kernel = next(k for k in lowered.kernels.values()
                  if "experts" in str(k.train.forward))
    link = {"ep": axis_link(planning.cluster, MESH.sizes, 0)}
    assert kernel.train.backward is not None
    forward, backward = (cost_of_graph(g, planning.cluster, link)
                         for g in (kernel.train.forward,
                                   kernel.train.backward))
    return forward, backward


class TestSizes(unittest.TestCase):

    def test_activations_are_numbers_of_a_device(self) -> None:
        for activation in ACTIVATIONS:
            sizes = ExpertSizes(rows=8,
                                width=4,
                                outer=8,
                                inner=4,
                                itemsize=2,
                                activation=activation.removesuffix("_tanh"))
            names = [n for n, _ in sizes.backward_beside.evaluated]
            with self.subTest(activation):
                self.assertEqual(
                    names, [] if activation.startswith("relu") else
                    [sizes.activation, f"{sizes.activation}_backward"])
                self.assertLessEqual({f"{n}_s_per_byte"
                                      for n in names}, set(COEFFICIENTS))


class TestExperts(unittest.TestCase):

    def test_dispatched(self) -> None:
        planning = planning_on(zoo("mixtral"), 2)
        chosen = planning.from_recipe(RECIPES["expert"](), MESH)
        rows = ROWS // 2
        moved, weighted = rows * WIDTH * 4, rows * (WIDTH + 1) * 4
        # Counts go ahead of the rows; weights go with them one way.
        counts = 8 * EXPERTS
        for times, expected, cost in zip(
            (1, 2), ([counts, moved, weighted], [moved, weighted]),
                costs(planning, chosen.layout),
                strict=True):
            own = [n for n in cost.nodes if "experts" in n.target]
            self.assertEqual([n.flops for n in own],
                             [2.0 * rows * WIDTH * 3 * INNER * times])
            sent = [c for c in cost.collectives if c.kind == "all_to_all"]
            self.assertEqual({c.axis for c in sent}, {"ep"})
            self.assertEqual(sorted(c.size_bytes for c in sent), expected)
        priced = [
            c for c in chosen.price.collectives if c.kind == "all_to_all"
        ]
        # Of both ranks.
        self.assertEqual(sorted(c.size_bytes / 2 for c in priced),
                         [counts, moved, moved, weighted, weighted])

    def test_whole(self) -> None:
        planning = planning_on(zoo("mixtral"), 2)
        chosen = planning.from_recipe(RECIPES["ddp"](),
                                      MeshSpec(("dp", ), (2, )))
        lowered = lower(planning.program,
                        chosen.layout,
                        0,
                        device=torch.device("cpu"))
        link = {"dp": axis_link(planning.cluster, (2, ), 0)}
        found = [
            node.flops
            for k in lowered.kernels.values() for node in cost_of_graph(
                k.train.forward, planning.cluster, link).nodes
            if "experts" in node.target
        ]
        self.assertEqual(found, [2.0 * ROWS // 2 * WIDTH * 3 * INNER])


if __name__ == "__main__":
    unittest.main()
