from __future__ import annotations

import unittest
from typing import Any

from planner.cost.analytic.configurations import (DDP, DUALPIPEV, FLUSH, FSDP,
                                                  FULL, GPIPE, NONE, SELECTIVE,
                                                  ZBH1, ZBV, ZERO1, ZERO2)
from scripts.published.case import Unreadable
from scripts.published.hardware import preset_of
from scripts.published.read import read_case
from tests.test_scripts.rows import row


def _model(name: str, **sizes: Any) -> dict[str, Any]:
    return {"name": name, "seq": 1024, **sizes}


class TestRefuse(unittest.TestCase):

    def _refused(self, message: str, **changes: Any) -> None:
        with self.assertRaisesRegex(Unreadable, message):
            read_case(row(**changes))

    def test_products_in_other_widths(self) -> None:
        for dtype in ("fp32", "TF32", "int8"):
            self._refused(f"products in {dtype.lower()} are not modelled",
                          dtype=dtype)

    def test_layers_of_state_spaces(self) -> None:
        for name in ("Mamba-2.8B", "Nemotron-H 56B", "Nemotron_3_Nano"):
            self._refused("state space layers are not modelled",
                          model=_model(name, layers=24, hidden=2048, heads=16))

    def test_a_size_is_no_version(self) -> None:
        model = _model("Nemotron-340B", layers=24, hidden=2048, heads=16)
        self.assertEqual(read_case(row(model=model)).model.layers, 24)

    def test_other_schedules_where_there_are_stages(self) -> None:
        self._refused("schedule 'chimera' is not modelled", schedule="chimera")
        alone = {"tp": 2, "pp": 1, "dp": 4, "sharding": "ddp"}
        case = read_case(row(schedule="chimera", parallel=alone))
        self.assertEqual(case.plan.pp, 1)

    def test_a_pipeline_of_more_stages_than_layers(self) -> None:
        stages = {"tp": 1, "pp": 8, "dp": 1, "sharding": "ddp"}
        few = _model("GPT", layers=2, hidden=2048, heads=16)
        self._refused("2 layers do not make 8 stages",
                      parallel=stages,
                      model=few)

    def test_latent_attention_that_is_not_told(self) -> None:
        self._refused(
            "latent attention without qk_nope_head_dim, qk_rope_head_dim, "
            "v_head_dim",
            model=_model("a model",
                         layers=60,
                         hidden=5120,
                         heads=128,
                         kv_lora_rank=512))

    def test_devices_on_another_bus(self) -> None:
        self._refused("no preset for an A100 on PCI Express",
                      hardware={
                          "gpu": "A100 PCIe 80GB",
                          "count": 8
                      })


class TestWords(unittest.TestCase):

    def test_sharding_has_several_names(self) -> None:
        for word, sharding in (("none", DDP), ("distributed optimizer", ZERO1),
                               ("DeepSpeed ZeRO-1",
                                ZERO1), ("zero_stage_2", ZERO2), (1, ZERO1),
                               ("SHARD_GRAD_OP", ZERO2), ("full-shard", FSDP),
                               ("FSDP (full shard)", FSDP), ("stage3", FSDP),
                               ("FSDP ZeRO-3", FSDP), ("os+g", ZERO2)):
            parallel = {"tp": 2, "pp": 1, "dp": 4, "sharding": word}
            self.assertEqual(
                read_case(row(parallel=parallel)).plan.sharding, sharding)

    def test_schedules(self) -> None:
        for word, schedule, chunks in (("1F1B-interleaved", FLUSH,
                                        1), ("PipeDream-flush", FLUSH, 1),
                                       ("GPipe", GPIPE, 1), ("ZB-H1", ZBH1, 1),
                                       ("zbv", ZBV, 2), ("DualPipeV",
                                                         DUALPIPEV, 2)):
            plan = read_case(row(schedule=word)).plan
            self.assertEqual((plan.schedule, plan.chunks), (schedule, chunks))

    def test_what_is_recomputed_has_several_names(self) -> None:
        for word, recompute in ((True, FULL), (False, NONE),
                                ("Full activation checkpointing",
                                 FULL), ("uniform", FULL), ("off", NONE),
                                ("selective (core attention)", SELECTIVE)):
            self.assertEqual(
                read_case(row(recompute=word)).plan.recompute, recompute)

    def test_what_is_not_recognised_is_refused(self) -> None:
        parallel = {"tp": 2, "pp": 1, "dp": 4, "sharding": "ZeRO-Infinity"}
        for changes, text in (({
                "recompute": "block"
        }, "recompute 'block' is not modelled"), ({
                "parallel": parallel
        }, "sharding 'zero-infinity' is not modelled")):
            with self.assertRaisesRegex(Unreadable, text):
                read_case(row(**changes))

    def test_devices_have_several_names(self) -> None:
        for gpu, preset in (("NVIDIA H100 80GB PCIe", "h100-pcie"),
                            ("H100SXM", "h100-sxm"), ("H100 96GB HBM2e",
                                                      "h100-96g-500w"),
                            ("Tesla V100-SXM2-32GB", "v100-32g"),
                            ("A100_40G", "a100-40g"), ("NVIDIA L4", "l4"),
                            ("TPUv5p", "tpu-v5p"), ("v5litepod-16", "tpu-v5e"),
                            ("TPU v4-128", "tpu-v4"), ("RTX4090", "rtx-4090")):
            self.assertEqual(preset_of(gpu), preset)

    def test_devices_that_are_not_those_of_like_names(self) -> None:
        for gpu, text in (("L40", "called 'L40'"), ("H100 NVL", "an H100 NVL"),
                          ("V100-PCIe-16GB", "a V100 on PCI Express"),
                          ("RTX A1000",
                           "called 'RTX A1000'"), ("H20", "called 'H20'")):
            with self.assertRaisesRegex(Unreadable, text):
                preset_of(gpu)

    def test_sizes_of_public_models_are_known(self) -> None:
        for name, layers, kv_heads, qk_dim in (("Llama 3.1 8B", 32, 8,
                                                128), ("LLaMA-30B", 60, 52,
                                                       128), ("Qwen2.5-7B", 28,
                                                              4, 128),
                                               ("gemma_2_9b", 42, 8,
                                                256), ("llama31_8b", 32, 8,
                                                       128), ("Llama 3.2 1B",
                                                              16, 8, 64),
                                               ("GPT-NeoX-20B", 44, 64,
                                                96), ("GPT3-5B", 24, 32, 128),
                                               ("DeepSeek-V3", 61, 128, 192)):
            case = read_case(
                row(model=_model(name), measured={"peak_mem_gb": 70}))
            model = case.model
            self.assertEqual((model.layers, model.kv_heads, model.qk_dim),
                             (layers, kv_heads, qk_dim))

    def test_names_of_two_numbers_are_not_run_together(self) -> None:
        with self.assertRaisesRegex(Unreadable, "are not stated"):
            read_case(row(model=_model("GPT-35B")))

    def test_other_sizes_than_the_public_models_are_not_filled_in(
            self) -> None:
        for width, ffn in ((4096, 14336), (2048, 5632)):
            sizes = {"layers": 32, "hidden": width, "heads": 16}
            model = read_case(row(model=_model("Llama-3-8B", **sizes))).model
            self.assertEqual((model.ffn, model.vocab), (ffn, 128256))
            self.assertTrue(model.gated)

    def test_a_mixture_of_another_width_is_still_one(self) -> None:
        wide = _model("Mixtral-8x7B", layers=8, hidden=2048, heads=16)
        model = read_case(row(model=wide)).model
        self.assertEqual((model.experts, model.top_k, model.expert_ffn),
                         (8, 2, model.ffn))

    def test_fewer_layers_are_those_of_the_public_model(self) -> None:
        model = read_case(row(model=_model("Llama-3-8B", layers=4))).model
        self.assertEqual((model.layers, model.hidden, model.kv_heads),
                         (4, 4096, 8))

    def test_samples_are_sequences(self) -> None:
        # 32 sequences a step, 16 of them a second.
        case = read_case(row(measured={"samples_per_s": 16.0}))
        self.assertAlmostEqual(case.measured_s or 0.0, 2.0)


if __name__ == "__main__":
    unittest.main()
