"""What models take, return and hold besides tensors."""

from __future__ import annotations

import unittest
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributions import Categorical, Normal

from planner.capture.capture import capture
from planner.capture.copies import copied
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_traps import module, rows


@dataclass
class Batch:
    left: torch.Tensor
    scale: float


@dataclass
class Scored:
    loss: torch.Tensor
    parts: list[Batch]


class TestDataclasses(unittest.TestCase):

    def test_unregistered_ones(self) -> None:

        def forward(self: Any, batch: Batch) -> Scored:
            y = self.linear(batch.left) * batch.scale
            return Scored(y.sum(), [Batch(y, 2.0)])

        program = check_capture(self, module(forward),
                                {"batch": Batch(rows(), 0.5)})
        self.assertEqual(program.loss, 0)
        self.assertEqual(len(program.outputs), 3)


class TestDistributions(unittest.TestCase):

    def test_checks_of_values_are_left_out(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            likely = Normal(y, y.exp()).log_prob(x).sum()
            return likely - Categorical(logits=y).entropy().mean()

        check_capture(self, module(forward), (rows(), ))
        with self.assertRaises(ValueError):
            Normal(torch.zeros(1), torch.tensor([-1.0]))


class TestLeftByCalls(unittest.TestCase):

    def test_a_copy_of_what_was_called(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = nn.utils.weight_norm(nn.Linear(4, 4)).double()
        model.seen = [model(rows())]
        again = copied(model)
        self.assertFalse(again.seen[0].requires_grad)
        self.assertIsNot(again.weight_g, model.weight_g)
        torch.testing.assert_close(again(rows()), model(rows()))
        check_capture(self, again, (rows(), ))


class Heads(nn.Module):
    """A product is cut outside of the block that it is made in."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
            for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            scale, shift = part(x).chunk(2, 1)
            x = x * scale + shift
        return x.sum()


class TestPicks(unittest.TestCase):

    def test_blocks_give_tensors(self) -> None:
        program = check_capture(self, Heads().double(), (rows(), ))
        for block in program.classes.values():
            for node in block.results:
                self.assertNotIsInstance(node.meta["spec"], tuple)


class TestLosses(unittest.TestCase):

    def test_only_the_loss_is_opaque(self) -> None:

        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if (target < 0).any():
                return output.abs().mean()
            return (output - target).square().mean()

        program = capture(module(lambda self, x: self.linear(x)),
                          (rows(), rows().abs()),
                          loss_fn=loss)
        self.assertEqual(len(program.notes), 1)
        self.assertIn("the loss function can't be captured", program.notes[0])


if __name__ == "__main__":
    unittest.main()
