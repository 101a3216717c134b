"""Recipes whose axis has nothing to divide say so."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import Recipe
from planner.undivided import undivided
from scaletorch import parallel
from scaletorch.choose import choose


def told(rows: int, chosen: Recipe, **sizes: int) -> list[str]:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    program = capture(model, (torch.zeros(rows, 8), ))
    mesh = MeshSpec(tuple(sizes), tuple(sizes.values()))
    planning = Planning(program, load_cluster("cpu-gloo:8"))
    found = choose(planning, chosen, mesh, flat=False)[0]
    form = found.program(program)
    return list(undivided(chosen, form, found.plan.resolve(form)))


class TestUndivided(unittest.TestCase):

    def test_rows_that_divide(self) -> None:
        self.assertEqual(told(8, parallel.fsdp(), dp=2), [])
        self.assertEqual(
            told(8, parallel.ddp() * parallel.megatron(), dp=2, tp=2), [])

    def test_rows_that_do_not(self) -> None:
        (text, ) = told(7, parallel.fsdp(), dp=2)
        self.assertTrue(
            text.startswith("fsdp divides dim 0 of the inputs, but none "
                            "divides over dp=2 ("), text)
        self.assertIn("(7, 8)): every rank of the axis computes the same",
                      text)

    def test_pipelines(self) -> None:
        staged = parallel.pipeline(microbatches=2)
        self.assertEqual(told(8, staged, pp=2), [])
        self.assertEqual(told(8, staged * parallel.fsdp(), pp=2, dp=2), [])
        (text, ) = told(6, staged * parallel.fsdp(), pp=2, dp=4)
        self.assertIn("none divides over dp=4", text)

    def test_an_axis_of_one_rank(self) -> None:
        self.assertEqual(told(7, parallel.fsdp(), dp=1), [])

    def test_recipes_that_divide_no_input(self) -> None:
        self.assertEqual(told(7, parallel.megatron(), tp=2), [])


if __name__ == "__main__":
    unittest.main()
