"""Checks of values are told from what a result depends on."""

from __future__ import annotations

import unittest
import warnings
from typing import Any

import torch
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_traps import module, rows


def checked(self: Any, x: torch.Tensor) -> torch.Tensor:
    assert x.shape[1] == 4
    assert not torch.isnan(x).any(), "not a number"
    assert (x.abs() < 100).all() and x.max() < 100
    assert all(torch.isfinite(row).all() for row in x)
    if x.isinf().any() or not (x > -100).all():
        raise ValueError("values")
    if (self.linear.weight > 100).any():
        warnings.warn("large weights")
    return self.linear(x).sum()


def branching(self: Any, x: torch.Tensor) -> torch.Tensor:
    if x.mean() > 0:
        x = self.linear(x)
    return self.linear(x).sum()


def guarded(self: Any, x: torch.Tensor) -> torch.Tensor:
    kept = x
    for _ in range(2):
        x = self.linear(x)
        if self.training and torch.isinf(x).any() or (x > 1).any():
            bound = torch.finfo(x.dtype).max - 1000
            x = torch.clamp(x, min=-bound, max=0.5)
    return (x * kept).sum()


def hidden(self: Any, x: torch.Tensor) -> torch.Tensor:
    mask = x > 0
    if x.sum() > 0:
        few = x < 0.5
        mask[:, 1:][few[:, 1:]] = 1
        mask[0] = False
    return (self.linear(x) * mask).sum()


def scaled_rows(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.linear(x)
    if x.sum() > 0:
        y[0] = 0
    return y.sum()


def logarithm(self: Any, x: torch.Tensor) -> torch.Tensor:
    x = self.linear(x)
    if (x > 0).all():
        x = torch.log(x)
    return x.sum()


def added(self: Any, x: torch.Tensor) -> torch.Tensor:
    loss = self.linear(x).sum()
    more = torch.log(self.linear(x)).sum()
    if torch.isfinite(more):
        loss = loss + more
    return loss


def zeroed(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.log(self.linear(x))
    if torch.isnan(y).any():
        y = torch.zeros_like(y)
    return y.sum() + self.linear(x).sum()


class TestGuards(unittest.TestCase):

    def test_both_sides_are_computed(self) -> None:
        for scale in (0.01, 10.0):
            check_capture(self, module(guarded), (rows() * scale, ))
        program = capture(module(guarded), (rows(), ), opaque=False)
        (only, ) = program.classes.values()
        self.assertIn("where", str(only.graph))

    def test_places_that_are_written(self) -> None:
        for sign in (-1, 1):
            x = rows() * sign
            self.assertEqual(bool(x.sum() > 0), sign < 0)
            check_capture(self, module(hidden), (x, ))
        capture(module(hidden), (rows(), ), opaque=False)

    def test_not_where_gradients_pass(self) -> None:
        with self.assertRaisesRegex(CaptureError, "control flow"):
            capture(module(scaled_rows), (rows(), ), opaque=False)

    def test_not_where_a_derivative_is_infinite(self) -> None:
        for branch in (logarithm, added, zeroed):
            with self.assertRaisesRegex(CaptureError, "control flow"):
                capture(module(branch), (rows(), ), opaque=False)


class TestChecks(unittest.TestCase):

    def test_left_out(self) -> None:
        program = check_capture(self, module(checked), (rows(), ))
        self.assertEqual(len(program.notes), 5)
        for note in program.notes:
            self.assertRegex(note, r"check of values is left out.*\.py:\d+$")

    def test_those_of_libraries(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return F.gaussian_nll_loss(y, x, y.exp())

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIn("functional.py", program.notes[0])

    def test_branches_are_none(self) -> None:
        with self.assertRaisesRegex(CaptureError, "control flow"):
            capture(module(branching), (rows(), ), opaque=False)


if __name__ == "__main__":
    unittest.main()
