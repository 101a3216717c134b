"""``torch.cond`` is a branch like any other."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from planner.capture.branches import plain_branches
from tests.test_planner.test_capture import eager
from tests.test_planner.test_capture.test_opaque import opaque_nodes


class Chooser(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x, ))


class Model(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.chooser, self.head = Chooser(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.chooser(x)).square().mean()


class TestBranches(unittest.TestCase):

    def test_either_branch(self) -> None:
        torch.manual_seed(0)
        model = Model().double()
        for sign in (1.0, -1.0):
            nn.init.constant_(model.chooser.layer.bias, 10 * sign)
            x = torch.randn(4, 4, dtype=torch.float64)
            program = eager.check_capture(self, model, (x, ))
            node, = opaque_nodes(program)
            self.assertIn("chooser", node.meta["label"])

    def test_what_is_exchanged_is_put_back(self) -> None:
        before = torch.cond.__code__
        with plain_branches(), plain_branches():
            found = torch.cond(torch.tensor(True), torch.sin, torch.cos,
                               (torch.zeros(2), ))
            self.assertEqual(found.tolist(), [0.0, 0.0])
        self.assertIs(torch.cond.__code__, before)


if __name__ == "__main__":
    unittest.main()
