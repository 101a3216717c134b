"""DTensor's strategies: they are still there, and what they say is right."""

from __future__ import annotations

import unittest

import torch

from planner.rules import OpCall, Option, has_rule
from planner.rules.dtensor import dtensor_ops, dtensor_options
from planner.rules.numeric import call_of, mismatch
from planner.rules.registry import adds_up, divides, with_partial_gradients
from tests.test_planner.test_rules.cases import CASES
from tests.test_planner.test_rules.cases.case import normal

aten = torch.ops.aten


def sound(call: OpCall) -> list[Option]:
    return [
        with_partial_gradients(call, o) for o in dtensor_options(call)
        if divides(call, o, 2) and adds_up(call, o)
    ]


class TestDTensor(unittest.TestCase):

    def test_table_is_where_it_was(self) -> None:
        known = dtensor_ops()
        self.assertGreater(len(known), 500)
        for op in (aten.mm.default, aten.gelu.default, aten.sqrt.default):
            self.assertTrue(op in known, op)

    def test_product(self) -> None:
        call, _ = call_of(aten.mm.default, (normal(4, 6), normal(6, 2)), {})
        self.assertLessEqual({"S(0),V->S(0)", "V,S(1)->S(1)", "S(1),S(0)->P"},
                             set(map(str, sound(call))))

    def test_operator_without_a_rule_of_ours(self) -> None:
        op = aten.linalg_inv_ex.default
        self.assertFalse(has_rule(op))
        matrix = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
        call, _ = call_of(op, (matrix + normal(2, 4, 4).detach(), ), {})
        self.assertIn("S(0)->S(0),S(0)", map(str, sound(call)))

    def test_unknown_operators_have_no_options(self) -> None:
        call, _ = call_of(aten.linear.default, (normal(4, 6), normal(2, 6)),
                          {})
        self.assertEqual(sound(call), [])

    def test_translated_options_are_right(self) -> None:
        # Its gradient by frequency counts only a rank's own tokens, which
        # a strategy for forward operators need not know.
        known = set(dtensor_ops()) - {aten.embedding.default}
        for case in CASES:
            if case.op not in known or not case.values:
                continue
            call, tensors = call_of(case.op, case.args, case.kwargs)
            for option in sound(call):
                with self.subTest(f"{case}: {option}"):
                    self.assertIsNone(
                        mismatch(call,
                                 tensors, (option, ), (2, ),
                                 tolerance=case.tolerance))


if __name__ == "__main__":
    unittest.main()
