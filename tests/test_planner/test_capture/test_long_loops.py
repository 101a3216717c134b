"""A loop over time that is too long to trace runs as it is."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import torch
from torch import nn

from planner.capture import ladder, long_loops
from planner.capture.capture import capture
from planner.ir.program import Program
from tests.test_planner.test_capture import eager
from tests.test_planner.test_capture.test_opaque import opaque_nodes


def scan(gates: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``h[t] = gates[t] h[t-1] + x[t]``, by steps."""
    state = torch.zeros_like(x[:, 0])
    steps = []
    for time in range(x.shape[1]):
        state = gates[:, time] * state + x[:, time]
        steps.append(state)
    return torch.stack(steps, 1)


class Mixer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.values = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + scan(self.gates(x).sigmoid(), self.values(x))


class Mixers(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mixer() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def with_few_steps(*args: Any, **kwargs: Any) -> Program:
    with mock.patch.object(long_loops, "MOST_STEPS", 20):
        return capture(*args, **kwargs)


class TestLongLoops(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.model = Mixers().double()

    def check(self, steps: int) -> Program:
        x = torch.randn(2, steps, 4, dtype=torch.float64)
        with mock.patch.object(eager, "capture", with_few_steps):
            return eager.check_capture(self, self.model, (x, ))

    def test_only_the_scan_runs_as_it_is(self) -> None:
        program = self.check(30)
        self.assertTrue(opaque_nodes(program))
        self.assertIn("the function scan (", program.notes[-1])
        self.assertIn("a loop runs more than 20 times", program.notes[-1])

    def test_it_is_unrolled_once_and_then_known(self) -> None:
        x = torch.randn(2, 30, 4, dtype=torch.float64)
        with mock.patch.object(ladder, "_traced",
                               wraps=ladder._traced) as traced:
            program = with_few_steps(self.model, (x, ))
        self.assertEqual(traced.call_count, 2)
        # A product and a sum each, zeros to begin with and a stack.
        *_, kernels = opaque_nodes(program)[0].args
        self.assertEqual(kernels, 30 * 2 + 2)

    def test_short_ones_are_traced(self) -> None:
        self.assertEqual(opaque_nodes(self.check(12)), [])

    def test_many_layers_are_no_loop(self) -> None:
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(30)))
        program = with_few_steps(model, (torch.zeros(2, 4), ))
        self.assertEqual(opaque_nodes(program), [])


if __name__ == "__main__":
    unittest.main()
