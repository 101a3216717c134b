"""Experts of Hugging Face models as one operator."""

from __future__ import annotations

import unittest

import torch
from transformers.integrations import moe

from planner.capture.capture import capture
from planner.capture.experts import experts_settings
from planner.ir.program import Program
from planner.ops.experts import Settings
from tests.model_zoo import MODELS
from tests.test_planner.test_capture.eager import check_capture, doubled

OP = torch.ops.scaletorch.experts.default


def targets(program: Program) -> list[str]:
    return [
        str(n.target) for cls in program.classes.values() for n in cls.calls
    ]


class TestCapture(unittest.TestCase):

    def test_one_operator_with_the_same_values(self) -> None:
        for name in ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"):
            with self.subTest(name):
                model, inputs, _ = MODELS[name]()
                program = check_capture(self, *doubled(model, inputs))
                self.assertEqual(targets(program).count(str(OP)), 1)
                self.assertEqual(model.config._experts_implementation, "eager")

    def test_other_implementations(self) -> None:
        for chosen in ("grouped_mm", "batched_mm"):
            with self.subTest(chosen):
                model, inputs, _ = MODELS["mixtral"]()
                model.set_experts_implementation(chosen)
                program = check_capture(self, model, inputs, tolerance=2e-4)
                self.assertIn(str(OP), targets(program))
                self.assertEqual(model.config._experts_implementation, chosen)

    def test_under_autocast(self) -> None:
        model, inputs, _ = MODELS["mixtral"]()
        with torch.autocast("cpu", torch.bfloat16):
            program = capture(model, inputs)
        node = next(n for cls in program.classes.values() for n in cls.calls
                    if n.target is OP)
        dtypes = {a.meta["spec"].dtype for a in node.args[3:5]}
        self.assertEqual(dtypes, {torch.bfloat16})

    def test_what_experts_compute_is_found_out(self) -> None:
        found = {}
        for name in ("mixtral", "gpt_oss"):
            model = MODELS[name]()[0]
            experts = model.model.layers[0].mlp.experts
            found[name] = experts_settings(experts)
        self.assertEqual(
            found, {
                "mixtral":
                Settings("silu", "halves", False),
                "gpt_oss":
                Settings("silu", "clamped_pairs", True,
                         (experts.alpha, experts.limit))
            })

    def test_unknown_gates_are_traced_through(self) -> None:
        model, inputs, _ = MODELS["mixtral"]()
        for layer in model.model.layers:
            layer.mlp.experts._apply_gate = lambda x: x.chunk(2, -1)[0].sin()
        model.set_experts_implementation("grouped_mm")
        program = check_capture(self, model, inputs, tolerance=2e-4)
        self.assertIn("what the experts operator can't", program.notes[0])
        self.assertNotIn(str(OP), targets(program))
        self.assertTrue(any("grouped_mm" in t for t in targets(program)))


class TestTransformers(unittest.TestCase):
    """What the capture relies on in transformers."""

    def test_the_table_of_implementations(self) -> None:
        table = moe.ALL_EXPERTS_FUNCTIONS
        self.assertNotIn("scaletorch", table)
        self.assertIsInstance(table._global_mapping, dict)

    def test_what_modules_and_configs_say(self) -> None:
        model = MODELS["mixtral"]()[0]
        experts = model.model.layers[0].mlp.experts
        for name in ("_is_expert_parallel", "has_gate", "has_bias",
                     "is_transposed", "has_post_expert_norm", "_apply_gate",
                     "act_fn", "gate_up_proj", "down_proj"):
            self.assertTrue(hasattr(experts, name), name)
        self.assertEqual(experts.config._experts_implementation_internal,
                         "eager")


if __name__ == "__main__":
    unittest.main()
