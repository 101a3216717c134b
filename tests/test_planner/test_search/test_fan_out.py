"""A value's readers in its block and in others are charged apart."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES


class Experts(nn.Module):
    """Each takes the rows that it chooses, from one table."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        weights, chosen = self.gate(rows).softmax(-1).t().topk(16, -1)
        out = torch.zeros_like(rows)
        for expert, w, i in zip(self.experts, weights, chosen):
            out.index_add_(0, i, expert(rows[i]) * w[:, None])
        return (out - rows).square().mean()


class TestReaders(unittest.TestCase):

    def test_in_the_block_and_in_several_others(self) -> None:
        program = capture(Experts(), (torch.randn(8, 8, 16), ))
        planning = Planning(program, load_cluster("cpu-gloo").resized(4))
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        chosen = planning.from_recipe(
            RECIPES["fsdp"]() * RECIPES["megatron"](), mesh)
        self.assertGreater(chosen.time_s, 0)


if __name__ == "__main__":
    unittest.main()
