"""Every option of every rule, run on shards and compared with the whole."""

from __future__ import annotations

import unittest

import torch

from planner.rules import options, registered_ops
from planner.rules.numeric import call_of, mismatch
from tests.test_planner.test_rules.cases import CASES, SIMULATORS, Case


class TestOptions(unittest.TestCase):

    def check(self, case: Case, size: int) -> int:
        call, tensors = call_of(case.op, case.args, case.kwargs)
        found = options(call, size)
        for option in found:
            text = mismatch(call,
                            tensors,
                            option,
                            size,
                            simulators=SIMULATORS,
                            values=case.values,
                            tolerance=case.tolerance)
            if text:
                self.fail(f"{case} over {size}: {option}: {text}")
        every = 1 + any(s.requires_grad for s in call.outputs)
        return len(found) - every

    def test_every_option_is_right(self) -> None:
        for case in CASES:
            with self.subTest(str(case)):
                torch.manual_seed(0)
                self.assertGreaterEqual(self.check(case, 2), case.least)
                self.check(case, 3)

    def test_every_operator_has_a_case(self) -> None:
        covered = {case.op for case in CASES}
        missing = [
            str(op) for op in registered_ops()
            if isinstance(op, torch._ops.OpOverload) and op not in covered
        ]
        self.assertEqual(missing, [])


if __name__ == "__main__":
    unittest.main()
