"""The numeric check finds what is wrong."""

from __future__ import annotations

import unittest

import torch

from planner.ir.layout import PMAX, P, R, S, V
from planner.rules import Option
from planner.rules.numeric import call_of, mismatch
from tests.test_planner.test_rules.cases.case import normal

aten = torch.ops.aten


class TestMismatch(unittest.TestCase):

    def difference(self, op: object, args: tuple[object, ...],
                   option: Option) -> str:
        call, tensors = call_of(op, args, {})
        return mismatch(call, tensors, (option, ), (2, )) or ""

    def test_right_option(self) -> None:
        option = Option(inputs=(S(1), S(0)), outputs=(P, ))
        args = (normal(4, 6), normal(6, 2))
        self.assertEqual(self.difference(aten.mm.default, args, option), "")

    def test_output_placement(self) -> None:
        args = (normal(4, 6), normal(6, 2))
        wrong = Option(inputs=(S(1), S(0)), outputs=(R, ))
        self.assertIn("output 0 (R)",
                      self.difference(aten.mm.default, args, wrong))
        wrong = Option(inputs=(S(0), V), outputs=(S(1), ))
        self.assertIn("output 0 (S(1))",
                      self.difference(aten.mm.default, args, wrong))

    def test_gradient_placement(self) -> None:
        args = (normal(4, 6), normal(6, 2))
        wrong = Option(inputs=(S(0), R), outputs=(S(0), ))
        self.assertIn("gradient of input 1 (R)",
                      self.difference(aten.mm.default, args, wrong))
        wrong = Option(inputs=(V, V), outputs=(R, ))
        self.assertIn("gradient of input 0 (V)",
                      self.difference(aten.mm.default, args, wrong))

    def test_partial_sum_through_what_is_not_linear(self) -> None:
        wrong = Option(inputs=(P, ), outputs=(P, ))
        self.assertIn(
            "output 0 (P)",
            self.difference(aten.exp.default, (normal(4, 6), ), wrong))

    def test_wrong_reduction(self) -> None:
        x = normal(4, 6).detach()
        right = Option(inputs=(S(0), ), outputs=(PMAX, ))
        self.assertEqual(self.difference(aten.amax.default, (x, [0]), right),
                         "")
        self.assertIn("output 0 (Pmax)",
                      self.difference(aten.amin.default, (x, [0]), right))

    def test_operator_that_fails_on_a_rank(self) -> None:
        wrong = Option(inputs=(S(1), R), outputs=(P, ))
        args = (normal(4, 6), normal(6, 2))
        self.assertIn("a rank fails",
                      self.difference(aten.mm.default, args, wrong))

    def test_lowering_needs_a_simulator(self) -> None:
        option = Option(inputs=(S(0), ), outputs=(P, ), lowering="mystery")
        with self.assertRaisesRegex(ValueError, "no simulator.*'mystery'"):
            self.difference(aten.mean.default, (normal(4, 6), ), option)


if __name__ == "__main__":
    unittest.main()
