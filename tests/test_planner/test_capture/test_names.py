"""Module names that are no Python names, and paths in regions."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.program import Program
from tests.test_planner.test_capture.eager import check_capture

NAMES = ("class", 'q"uote', "it's", "two words", "line\nbreak", "τ", "a-b",
         "@1")


class Named(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({n: nn.Linear(4, 4) for n in NAMES})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts.values():
            x = part(x).tanh()
        return x.sum()


class TestNames(unittest.TestCase):

    def test_any_name(self) -> None:
        x = torch.randn(3, 4, dtype=torch.float64)
        program = check_capture(self, Named().double(), (x, ))
        graph = program.classes["Named"].graph
        labels = {n.meta["label"] for n in graph.nodes if n.op != "output"}
        for name in NAMES:
            self.assertIn(f"param:parts.{name}.weight", program.specs)
            self.assertIn(f"parts.{name}.linear", labels)


class Tower(nn.Module):

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.autocast = autocast
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            for layer in self.layers:
                x = x + layer(x)
        return x.sum()


class TestRegions(unittest.TestCase):
    """Blocks are found in and under autocast."""

    def test_around_the_call(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            self._check(capture(Tower(False), (torch.randn(3, 4), )))

    def test_inside_of_the_model(self) -> None:
        self._check(capture(Tower(True), (torch.randn(3, 4), )))

    def _check(self, program: Program) -> None:
        found = [b.name for b in program.blocks if "layers" in b.name]
        self.assertEqual(found, ["layers.0", "layers.1", "layers.2"])
        blocks = {b.name: b.block_class for b in program.blocks}
        self.assertEqual(blocks["layers.1"], blocks["layers.2"])
        sources = {
            n.meta["source"].location.rpartition("/")[2].partition(":")[0]
            for n in program.classes[blocks["layers.1"]].graph.nodes
            if n.op == "call_function"
        }
        self.assertNotIn("export.py", sources)


if __name__ == "__main__":
    unittest.main()
