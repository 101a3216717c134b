"""Writes into parts of tensors are captured with their derivatives."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch

from planner.capture import reference
from planner.capture.capture import capture
from planner.capture.entry import bind_inputs
from planner.ir.errors import CaptureError
from planner.ir.program import Program
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_traps import module, rows

MASK = torch.tensor([True, False, True])

WRITES = module(lambda self, x: self.linear(x.mul_(2)).sum())


def calls(program: Program) -> set[str]:
    return {
        str(n.target)
        for block in program.classes.values()
        for n in block.graph.nodes if n.op == "call_function"
    }


class TestByMask(unittest.TestCase):
    """``x[mask] = value`` where one value goes to all places."""

    def _check(self, write: Callable[[Any, torch.Tensor], None],
               called: str) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            write(self, y)
            return (y * y).sum()

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIn(called, calls(program))

    def test_a_row(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[MASK] = model.linear.bias

        self._check(write, "aten.where.self")

    def test_a_row_of_one(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[MASK] = model.linear.weight[:1]

        self._check(write, "aten.where.self")

    def test_a_number_under_a_mask_of_all_dims(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[y > 0] = model.linear.bias[0]

        self._check(write, "aten.where.self")

    def test_columns(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[:, torch.tensor([True, False, False, True])] = \
                model.linear.weight[:3, :1]

        self._check(write, "aten.where.self")

    def test_rows_by_number_stay(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[torch.tensor([0, 2])] = model.linear.weight[:2]

        self._check(write, "aten.index_put.default")

    def test_rows_of_their_own(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            y[MASK] = model.linear.weight[:2]

        self._check(write, "aten.masked_scatter.default")

    def test_columns_of_their_own(self) -> None:
        columns = torch.tensor([True, False, False, True])

        def write(model: Any, y: torch.Tensor) -> None:
            y[:, columns] = model.linear.bias[:2]
            y[:, columns] = y[:, :2].clone() * model.linear.weight[:3, :2]

        self._check(write, "aten.masked_scatter.default")

    def test_values_of_their_own(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            chosen = torch.zeros_like(y, dtype=torch.bool)
            chosen[1, 2:] = True
            y[chosen] = model.linear.bias[1:3]

        self._check(write, "aten.masked_scatter.default")

    def test_as_many_values_as_the_mask_has(self) -> None:

        def write(model: Any, y: torch.Tensor) -> None:
            chosen = y > 0
            y[chosen] = (2 * y)[chosen]

        self._check(write, "aten.where.self")

    def test_values_that_depend_on_other_rows(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y[x > 0] = x[x > 0].cumsum(0)
            return y.sum()

        with self.assertRaisesRegex(CaptureError, "depends on the values"):
            capture(module(forward), (rows(), ), opaque=False)


class TestByStrides(unittest.TestCase):
    """Torch's own derivative of such a write is wrong."""

    def _check(self, write: Callable[[torch.Tensor], None],
               called: str) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            square = y.T @ y
            write(square)
            return (square * y[:, :1].sum()).pow(2).sum()

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIn(called, calls(program))

    def test_a_number_on_the_diagonal(self) -> None:
        self._check(lambda y: y.fill_diagonal_(0), "aten.masked_fill.Scalar")

    def test_the_diagonal_of_what_lies_in_columns(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x).T * 2
            y.fill_diagonal_(3)
            return y.pow(2).sum()

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIn("aten.masked_fill.Scalar", calls(program))

    def test_values_of_their_own_on_the_diagonal(self) -> None:
        self._check(lambda y: y.as_strided((4, ), (5, )).mul_(3),
                    "aten.diagonal_scatter.default")

    def test_other_places(self) -> None:
        self._check(lambda y: y.as_strided((2, 3), (8, 1), 1).mul_(3),
                    "aten.scatter.src")

    def test_a_diagonal_that_starts_again(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(torch.cat([x, 2 * x]))
            return y.clone().fill_diagonal_(1, wrap=True).pow(2).sum()

        check_capture(self, module(forward), (rows(), ))


class TestInputs(unittest.TestCase):

    def test_a_copy_is_written_to(self) -> None:
        given = rows()
        call = bind_inputs(WRITES, (given, ), {}, None)
        program = capture(WRITES, (given, ))
        (found, ), _ = reference.run(program, reference.model_values(WRITES),
                                     call.tensors)
        torch.testing.assert_close(given, rows())
        torch.testing.assert_close(found, WRITES(given))
        self.assertIn(
            "writes in place to its input args[0]: the program "
            "writes to a copy", program.notes[0])


class TestComplexParts(unittest.TestCase):
    """Which have no derivative where they are written to a slice."""

    def _check(self, write: Callable[[torch.Tensor, torch.Tensor],
                                     None]) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            z = torch.fft.fft(self.linear(x))
            y = torch.ones(3, 6, dtype=z.dtype) * z[0, 0]
            write(y, z)
            return (y.abs()**2).sum()

        program = check_capture(self, module(forward), (rows(), ))
        self.assertIn("aten.cat.default", calls(program))
        self.assertFalse([c for c in calls(program) if "_scatter" in c])

    def test_slices(self) -> None:
        for first in (0, 1, 2):
            with self.subTest(first=first):

                def write(y: torch.Tensor, z: torch.Tensor) -> None:
                    y[:, first:first + 4] = z

                self._check(write)

    def test_one_row(self) -> None:

        def write(y: torch.Tensor, z: torch.Tensor) -> None:
            y[-2, :4] = z[0]

        self._check(write)


if __name__ == "__main__":
    unittest.main()
