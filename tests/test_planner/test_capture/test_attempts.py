"""How often a model is traced until it is captured."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import numpy
import torch
from torch import nn

from planner.capture import ladder
from tests.test_planner.test_capture.eager import check_capture


class _Layer(nn.Module):

    def __init__(self, sharp: bool = False) -> None:
        super().__init__()
        self.sharp = sharp
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y.relu() if self.sharp else y.tanh()


class _Ranked(nn.Module):
    """Asks numpy for an order, which no trace knows."""

    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(layers)
        self.ranking = _Ranking()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        out: torch.Tensor = self.ranking(x)
        return out.sum()


class _Ranking(nn.Module):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = numpy.argsort(x.detach().sum(1).numpy())
        return x * torch.as_tensor(order.copy(), dtype=x.dtype)[:, None]


def _attempts(test: unittest.TestCase, layers: list[_Layer]) -> int:
    attempt: Any = ladder._attempt
    with mock.patch.object(ladder, "_attempt", side_effect=attempt) as made:
        program = check_capture(test,
                                _Ranked(layers).double(),
                                (torch.randn(3, 4, dtype=torch.float64), ))
    test.assertIn("can't be captured", program.notes[-1])
    return int(made.call_count)


class TestAttempts(unittest.TestCase):

    def test_a_failure_of_the_model_is_not_blamed_on_its_layers(self) -> None:
        """Once with repeats and once without; then as values of inputs are
        known; then with what is at fault run as it is."""
        self.assertEqual(_attempts(self, [_Layer() for _ in range(3)]), 4)

    def test_layers_that_differ_are_known_to_later_attempts(self) -> None:
        layers = [_Layer(), _Layer(), _Layer(sharp=True)]
        self.assertEqual(_attempts(self, layers), 5)


if __name__ == "__main__":
    unittest.main()
