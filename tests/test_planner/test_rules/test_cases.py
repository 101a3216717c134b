"""Every option of every rule, run on shards and compared with the whole."""

from __future__ import annotations

import random
import unittest
import warnings

import torch

from planner.rules import registered_ops
from tests.test_planner.test_rules.cases import CASES
from tests.test_planner.test_rules.checking import check_options, check_pairs


class TestCases(unittest.TestCase):

    def test_every_option_is_right(self) -> None:
        for case in CASES:
            with self.subTest(str(case)), warnings.catch_warnings():
                # torch warns that some operators are old.
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                for size, least in ((2, case.least), (3, 0)):
                    found = check_options(case.op,
                                          case.args,
                                          case.kwargs,
                                          size=size,
                                          values=case.values,
                                          tolerance=case.tolerance)
                    self.assertGreaterEqual(found, least)

    def test_options_compose_over_axes(self) -> None:
        chooser = random.Random(0)
        for case in CASES:
            with self.subTest(str(case)), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                self.assertGreater(check_pairs(case, 4, chooser), 0)

    def test_every_operator_has_a_case(self) -> None:
        covered = {case.op for case in CASES}
        names = covered | {op.name() for op in covered}
        tags = {tag for op in covered for tag in op.tags}
        # Examples and tests register operators of their own.
        foreign = {
            op
            for op in registered_ops()
            if isinstance(op, torch._ops.OpOverload) and op.namespace != "aten"
        }
        missing = [
            str(op) for op in registered_ops()
            if op not in names | tags | foreign
        ]
        self.assertEqual(missing, [])


if __name__ == "__main__":
    unittest.main()
