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
        x = x * 2
    return self.linear(x).sum()


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
