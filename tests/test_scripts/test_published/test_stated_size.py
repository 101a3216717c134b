from __future__ import annotations

import unittest
from typing import Any

from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Unreadable
from scripts.published.read import read_case
from scripts.published.stated_size import as_stated
from tests.test_scripts.rows import row


def _model() -> Transformer:
    return read_case(row()).model


def _named(billions: float, **changes: Any) -> dict[str, Any]:
    model = {**row()["model"], "name": f"GPT-{billions:.4f}B"}
    return row(model=model, **changes)


class TestStatedSize(unittest.TestCase):

    def test_two_statements_against_the_sizes(self) -> None:
        model = _model()
        billions = 1.1 * float(model.parameters) / 1e9
        wider = as_stated(model, _named(billions), 1.1)
        self.assertAlmostEqual(float(wider.hidden) / float(model.hidden),
                               1.1**0.5,
                               places=3)
        layer = float(wider.qkv_parameters + wider.mlp_parameters)
        before = float(model.qkv_parameters + model.mlp_parameters)
        self.assertAlmostEqual(layer / before, 1.1, places=3)
        self.assertEqual(wider.layers, model.layers)

    def test_one_statement_is_not_enough(self) -> None:
        model = _model()
        billions = 1.1 * float(model.parameters) / 1e9
        for stated, implied in ((_named(billions), None), (_named(billions),
                                                           1.0), (row(), 1.1),
                                (_named(billions,
                                        flops_convention="8*N*tokens"), 1.1)):
            self.assertIs(as_stated(model, stated, implied), model)

    def test_a_step_of_other_work_is_refused(self) -> None:
        convention = "Megatron formula incl. recompute"
        case = read_case(row())
        flops = float(case.model.model_flops(32 * 1024)) * 4 / 3
        rate = flops / 8 / 1.5 / 1e12
        measured = {"iteration_time_s": 1.5, "hw_tflops_per_gpu": rate}
        stated = row(measured=measured, flops_convention=convention)
        self.assertEqual(read_case(stated).measured_s, 1.5)
        measured["hw_tflops_per_gpu"] = 2 * rate
        with self.assertRaisesRegex(Unreadable, "is 2.00 times the work"):
            read_case(stated)


if __name__ == "__main__":
    unittest.main()
