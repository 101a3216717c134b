from __future__ import annotations

import unittest
from typing import Any

from planner.cost.analytic.configurations import FULL, NONE, Configurations
from planner.cost.analytic.transformer import Transformer
from scripts.published.read import read_case
from tests.test_scripts.rows import row


def _bridge(gpu: str, release: str, name: str, dtype: str,
            **changes: Any) -> tuple[Configurations, Transformer]:
    """What is read of a mixture in a table of a release."""
    hardware = {"gpu": gpu, "count": 64, "gpus_per_node": 8}
    model = {**row()["model"], "name": name, "experts": 64, "top_k": 4}
    case = read_case(
        row(**({
            "hardware": hardware,
            "model": model,
            "dtype": dtype,
            "global_batch": 128,
            "micro_batch": 1,
            "source": {
                "name": "a summary",
                "table": f"{release} container"
            },
            "parallel": {
                "tp": 1,
                "ep": 16
            },
            "measured": {
                "iteration_time_s": 1e3
            }
        } | changes)))
    return case.plan, case.model


class TestBridge(unittest.TestCase):

    def test_newer_recipes_run_whole_steps_as_graphs(self) -> None:
        for release, dtype, graphed in (("26.06", "MXFP8",
                                         True), ("26.04", "MXFP8", False),
                                        ("26.06", "BF16", False)):
            plan, _ = _bridge("GB300", release, "DeepSeek", dtype)
            self.assertEqual(
                (bool(plan.fused_experts), bool(plan.exchange_overlap),
                 plan.host_factor == 0, plan.attention_bits == 8),
                (graphed, ) * 4)

    def test_kimi_came_later_than_others(self) -> None:
        for micro, graphed in ((2, False), (1, True)):
            plan, _ = _bridge("GB300",
                              "26.06",
                              "Kimi_K2",
                              "MXFP8",
                              micro_batch=micro)
            self.assertEqual(bool(plan.fused_experts), graphed)

    def test_some_recipes_have_the_plain_all_to_all(self) -> None:
        for gpu, name, dtype, plain in (("H100", "Qwen3_235B", "FP8", True),
                                        ("GB200", "Qwen3_235B", "MXFP8",
                                         False), ("B200", "Qwen3_30B", "MXFP8",
                                                  False),
                                        ("GB300", "GPT OSS 120B", "BF16",
                                         True), ("GB300", "GPT OSS 120B",
                                                 "MXFP8", False)):
            plan, _ = _bridge(gpu, "26.02", name, dtype)
            self.assertEqual(bool(plan.dedicated_exchange), not plain)

    def test_gpt_oss_has_biases_and_windows(self) -> None:
        plan, model = _bridge("B200", "26.02", "GPT OSS 120B", "BF16")
        self.assertTrue(plan.expert_biases)
        # Every second layer sees 128 tokens and not the mean of 512.
        self.assertAlmostEqual(float(model.attended), (1 + 128 / 512) / 2)


class TestPax(unittest.TestCase):

    def test_repeated_layers_are_recomputed(self) -> None:
        source = {"name": "a table", "file": "projects/pax/README.md"}
        for name, dtype, recompute, fused in (("GPT-5B", "TE BF16", FULL,
                                               True), ("GPT-5B", "BF16", FULL,
                                                       False),
                                              ("GPT-126M", "BF16", NONE,
                                               False), ("Llama2-7B", "BF16",
                                                        NONE, True)):
            plan = read_case(
                row(source=source,
                    model={
                        **row()["model"], "name": name
                    },
                    dtype=dtype,
                    recompute=None,
                    measured={"iteration_time_s": 1e3})).plan
            self.assertEqual((plan.recompute, bool(plan.fused_attention)),
                             (recompute, fused))


if __name__ == "__main__":
    unittest.main()
