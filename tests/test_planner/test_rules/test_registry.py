"""How rules are registered, and what is made of their options."""

from __future__ import annotations

import unittest

import torch

from planner.ir.layout import R, S
from planner.rules import OpCall, Option, has_rule, options, register, registry
from planner.rules.numeric import call_of
from tests.test_planner.test_rules.cases.case import case, normal
from tests.test_planner.test_rules.checking import options_of

aten = torch.ops.aten


class TestOptions(unittest.TestCase):

    def test_two_options_come_first(self) -> None:
        found = options_of(aten.relu.default, normal(4, 6))
        self.assertEqual([str(o) for o in found],
                         ["R->R", "V->V", "S(0)->S(0)", "S(1)->S(1)"])

    def test_whole_operands_get_partial_gradients(self) -> None:
        found = map(str, options_of(aten.mul.Tensor, normal(4, 6), normal(6)))
        self.assertIn("S(0),V->S(0)", found)

    def test_what_does_not_divide_is_dropped(self) -> None:
        found = options_of(aten.relu.default, normal(4, 6), size=3)
        self.assertEqual([str(o) for o in found],
                         ["R->R", "V->V", "S(1)->S(1)"])

    def test_truth_values_have_no_partial_sums(self) -> None:
        found = options_of(aten.t.default, normal(4, 6).detach() > 0)
        self.assertEqual([str(o) for o in found],
                         ["R->R", "S(1)->S(0)", "S(0)->S(1)"])

    def test_units_must_divide(self) -> None:
        grouped = case(aten.group_norm.default, normal(3, 8, 2), 2)
        by_size = {
            size:
            "S(1)->S(1)"
            in map(str, options_of(grouped.op, *grouped.args, size=size))
            for size in (2, 4)
        }
        self.assertEqual(by_size, {2: True, 4: False})

    def test_units_are_no_part_of_the_identity(self) -> None:
        one = Option(inputs=(S(0), ), outputs=(R, ))
        two = Option(inputs=(S(0), ), outputs=(R, ), units=4)
        self.assertEqual({one}, {two})


class TestRegister(unittest.TestCase):

    def test_second_rule_is_an_error(self) -> None:
        with self.assertRaisesRegex(ValueError, "aten.mm.default already"):
            register(aten.mm.default)(lambda call: ())

    def test_operator_by_name(self) -> None:
        library = torch.library.Library("rules_test_names", "DEF")
        library.define("same(Tensor x) -> Tensor")
        library.impl("same", lambda x: x.clone(), "CPU")

        def rule(call: OpCall) -> list[Option]:
            return [Option(inputs=(S(0), ), outputs=(S(0), ))]

        register("rules_test_names::same")(rule)
        self.addCleanup(registry._RULES.pop, "rules_test_names::same")
        op = torch.ops.rules_test_names.same.default
        self.assertTrue(has_rule(op))
        found = options(call_of(op, (normal(4).detach(), ), {})[0], 2)
        self.assertEqual([str(o) for o in found], ["R->R", "S(0)->S(0)"])

    def test_tagged_operator(self) -> None:
        self.assertTrue(has_rule(aten.erfinv.default))
        self.assertFalse(has_rule(aten.linalg_inv_ex.default))

    def test_fallback_is_for_unknown_operators(self) -> None:

        def rule(call: OpCall) -> list[Option]:
            return [Option(inputs=(S(0), ), outputs=(S(0), ))]

        unknown = call_of(torch.sinh, (normal(4), ), {})[0]
        self.assertIn("S(0)->S(0)",
                      map(str, options(unknown, 2, fallback=(rule, ))))
        known = call_of(aten.cumsum.default, (normal(4), 0), {})[0]
        self.assertNotIn("S(0)->S(0)",
                         map(str, options(known, 2, fallback=(rule, ))))


if __name__ == "__main__":
    unittest.main()
