"""``.data`` and ``detach()``: the same memory, behind autograd's back."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_traps import module, rows


def moving_average(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count.data = 0.5 * self.count + x.sum(0)
    self.count.data[:2].mul_(0.5).add_(x[0, :2])
    return (self.linear(x) * self.count).sum()


def uncaptured(forward: Callable[..., Any]) -> Callable[..., Any]:

    def asks(self: Any, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x + 1 if float(x.sum()) > 1e9 else x)

    return asks


class TestBuffers(unittest.TestCase):

    def test_are_updated(self) -> None:
        program = check_capture(self, module(moving_average), (rows(), ))
        self.assertEqual(list(program.mutations), ["buffer:count"])
        self.assertEqual(program.notes, ())

    def test_are_updated_by_what_is_not_captured(self) -> None:
        program = check_capture(self, module(uncaptured(moving_average)),
                                (rows(), ))
        self.assertEqual(list(program.mutations), ["buffer:count"])

    def test_may_not_change_their_shape(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.count.data = x
            return self.linear(x)

        with self.assertRaisesRegex(CaptureError,
                                    r"assigns \(3, 4\) of torch.float64 to"):
            capture(module(forward), (rows(), ))


class TestParameters(unittest.TestCase):

    def test_are_written_unless_by_what_is_not_captured(self) -> None:

        def clamps(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.linear.weight.data.clamp_(-0.1, 0.1)
            return self.linear(x)

        def halves(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.linear.weight.data = self.linear.weight / 2
            return self.linear(x)

        for forward in (clamps, halves):
            program = check_capture(self, module(forward), (rows(), ))
            self.assertEqual(program.written, ("param:linear.weight", ))
            with self.assertRaisesRegex(CaptureError,
                                        "writes in place to a parameter"):
                capture(module(uncaptured(forward)), (rows(), ))


class TestValuesWithGradients(unittest.TestCase):

    def test_are_read(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            before = y.detach()
            scale = y.data.clone().clamp_(0)
            y.relu_()
            return (y * before * scale).sum()

        program = check_capture(self, module(forward), (rows(), ))
        self.assertEqual(program.notes, ())

    def test_are_not_written_in_a_graph(self) -> None:

        def through_data(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y.data[:, 0] = 0
            return (y * x).sum()

        def assigned(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y.data = y.clamp(0)
            return (y * x).sum()

        def without_gradients(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            with torch.no_grad():
                y.view(-1).clamp_(0)
            return (y * x).sum()

        for forward in (through_data, assigned, without_gradients):
            program = check_capture(self, module(forward), (rows(), ))
            self.assertRegex(program.notes[0],
                             r"behind autograd's back.*runs whole")
            self.assertIn("test_data.py:", program.notes[0])


class TestFlags(unittest.TestCase):

    def test_parameters_frozen_for_a_while(self) -> None:

        def by_method(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.head.requires_grad_(False)
            y = self.head(self.linear(x)).sum()
            self.head.requires_grad_(True)
            return y + self.head(x).square().sum()

        def by_assignment(self: Any, x: torch.Tensor) -> torch.Tensor:
            for parameter in self.head.parameters():
                parameter.requires_grad = False
            y = self.head(self.linear(x)).sum()
            for parameter in self.head.parameters():
                parameter.requires_grad = True
            return y + self.head(x).square().sum()

        for forward in (by_method, by_assignment):
            model = module(forward)
            model.head = nn.Linear(4, 4).double()
            program = check_capture(self, model, (rows(), ))
            self.assertEqual(program.notes, ())

    def test_thawed_parameters(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.linear.requires_grad_(True)
            return self.linear(x).sum()

        model = module(forward)
        model.linear.requires_grad_(False)
        with self.assertRaisesRegex(CaptureError, "thaws a frozen parameter"):
            capture(model, (rows(), ))

    def test_hooks_of_gradients(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y.register_hook(lambda grad: 2 * grad)
            return (y * x).sum()

        with self.assertRaisesRegex(
                CaptureError, "a gradient hook is registered, at .*test_data"):
            capture(module(forward), (rows(), ))


if __name__ == "__main__":
    unittest.main()
