"""Real models: every call has a rule, and what is trained can be divided."""

from __future__ import annotations

import unittest

from planner.capture.capture import capture
from planner.ir.values import call_of, calls_of
from planner.rules import has_rule, options
from tests.model_zoo import MODELS


class TestModels(unittest.TestCase):

    def test_rules_cover_real_models(self) -> None:
        for name in ("gpt2", "mixtral", "resnet"):
            model, inputs, loss_fn = MODELS[name]()
            program = capture(model, inputs, loss_fn=loss_fn)
            calls = [
                call_of(node) for block in program.classes.values()
                for node in calls_of(block.graph)
            ]
            with self.subTest(name):
                self.assertEqual(
                    [str(c.target) for c in calls if not has_rule(c.target)],
                    [])
                whole = [
                    str(c.target) for c in calls if any(
                        t.requires_grad and t.ndim > 1
                        for t in c.outputs) and not any(o.is_sharded
                                                        for o in options(c, 2))
                ]
                self.assertEqual(whole, [])


if __name__ == "__main__":
    unittest.main()
