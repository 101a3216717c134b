from __future__ import annotations

import unittest
from typing import Any

from planner.cluster.load import load_cluster
from planner.cost.analytic.configurations import (ALTERNATE, DDP, FIRST, FSDP,
                                                  FULL, OWN, SECOND, SELECTIVE,
                                                  ZERO1, ZERO2)
from scripts.published.case import Unreadable
from scripts.published.hardware import cluster_of
from scripts.published.read import read_case
from tests.test_scripts.rows import row


class TestCase(unittest.TestCase):

    def test_what_a_row_states_is_taken(self) -> None:
        case = read_case(row())
        plan = case.plan
        self.assertEqual((plan.tp, plan.pp, plan.dp, plan.micro_batch,
                          plan.num_microbatches), (2, 2, 2, 4, 4))
        self.assertEqual((plan.sharding, plan.recompute), (DDP, FULL))
        self.assertFalse(plan.fused_attention)
        self.assertEqual(case.model.vocab, 50000)
        self.assertEqual(case.model.ffn, 4 * 2048)
        self.assertEqual(case.cluster.num_devices, 8)
        self.assertAlmostEqual(case.measured_s or 0.0, 1.5)

    def test_newer_stacks_default_to_what_they_do(self) -> None:
        hardware = {"gpu": "H100-80GB", "count": 8, "gpus_per_node": 8}
        parallel = {"tp": 4, "pp": 1}
        case = read_case(row(hardware=hardware, dtype="FP8",
                             parallel=parallel))
        plan = case.plan
        self.assertTrue(plan.sequence_parallel and plan.overlap)
        self.assertEqual((plan.dp, plan.sharding, plan.linear_bits),
                         (2, ZERO1, 8))

    def test_names_of_precisions(self) -> None:
        for dtype, dropout in (("fp16", True), ("FP16", True),
                               ("float16", True), ("amp_fp16", True),
                               ("bf16", False), ("bfloat16", False),
                               ("amp_bf16", False), (None, False)):
            with self.subTest(dtype):
                plan = read_case(row(dtype=dtype)).plan
                self.assertEqual(plan.dropout, dropout)

    def test_names_of_kernels_of_attention(self) -> None:
        for stated, fused in (("flash", True), ("FlashAttention-2", True),
                              ("SDPA", True), ("unfused", False),
                              ("eager", False), (None, False)):
            with self.subTest(stated):
                plan = read_case(row(attention=stated)).plan
                self.assertEqual(plan.fused_attention, fused)

    def test_encoders_attend_to_later_tokens(self) -> None:
        for name, family, causal in (("BERT-Large", None,
                                      False), ("a test", "bert", False),
                                     ("RoBERTa", "BERT", False), ("GPT", "gpt",
                                                                  True)):
            model = {**row()["model"], "name": name, "family": family}
            self.assertEqual(read_case(row(model=model)).model.causal, causal)

    def test_an_optimizer_for_bfloat16_keeps_copies(self) -> None:
        notes = "ZeRO-1 + bf16 optimizer unless noted"
        for dtype, stated, copied in (("bf16", notes, True),
                                      ("fp16", notes, False), ("bf16", "",
                                                               False)):
            case = read_case(row(dtype=dtype, notes=stated))
            self.assertEqual(case.plan.copied_accumulation, copied)
            self.assertEqual(case.plan.whole_sums, copied)

    def test_recipes_hide_the_exchange_of_rows(self) -> None:
        model = {**row()["model"], "experts": 64, "top_k": 4}

        def hidden(gpu: str, release: str, dtype: str, **sizes: int) -> bool:
            hardware = {"gpu": gpu, "count": 64, "gpus_per_node": 8}
            source = {"name": "a summary", "table": release}
            found = read_case(
                row(hardware=hardware,
                    model=model,
                    dtype=dtype,
                    global_batch=128,
                    source=source,
                    parallel={
                        "pp": 2,
                        "dp": 32,
                        **sizes
                    }))
            return bool(found.plan.exchange_overlap)

        # Several chunks, and experts on several nodes.
        self.assertTrue(hidden("H100", "", "bf16", vpp=2, ep=16))
        self.assertFalse(hidden("H100", "", "bf16", vpp=2, ep=8))
        self.assertFalse(hidden("H100", "", "bf16", vpp=1, ep=16))
        # Racks in 8 bits, of newer releases.
        self.assertTrue(hidden("GB200", "26.06 NeMo", "MXFP8", ep=16))
        self.assertFalse(hidden("GB200", "26.04 NeMo", "MXFP8", vpp=2, ep=16))
        self.assertFalse(hidden("GB200", "26.06 NeMo", "BF16", vpp=2, ep=16))

    def test_the_name_of_a_precision_tells_its_scales(self) -> None:
        for dtype, rows in (("float8-rowwise", True), ("float8", False)):
            plan = read_case(row(dtype=dtype)).plan
            self.assertEqual((plan.linear_bits, plan.row_scales), (8, rows))

    def test_deepspeed_holds_gradients_as_its_tables_say(self) -> None:
        notes = "Megatron-DeepSpeed, ZeRO-1 + bf16 optimizer unless noted"
        sharded = {**row()["parallel"], "sharding": "zero1"}
        for table, held, state in (("Choosing the fastest", 2, 18),
                                   ("Rebalancing layers", 6, 12), (None, 6,
                                                                   12)):
            plan = read_case(
                row(dtype="bf16",
                    notes=notes,
                    parallel=sharded,
                    source={
                        "name": "BigScience",
                        "table": table
                    })).plan
            self.assertEqual((plan.held_gradient_bytes, plan.master_bytes),
                             (held, state))

    def test_frameworks_to_learn_from_are_eager(self) -> None:
        eager, other = (read_case(row(dtype="bf16", source={"name":
                                                            name})).plan
                        for name in ("ScaleTorch README", "made up"))
        self.assertTrue(eager.whole_logits and not eager.fused_kernels)
        self.assertFalse(other.whole_logits)
        self.assertEqual((eager.master_bytes, other.master_bytes), (4, 12))

    def test_alpa_scatters_gradients(self) -> None:
        parallel = {"tp": 2, "pp": 2, "dp": 2}
        case = read_case(row(source={"name": "Alpa"}, parallel=parallel))
        self.assertEqual(case.plan.sharding, ZERO2)

    def test_newer_megatron_hides_sums_and_adds_gradients(self) -> None:
        split = {**row()["parallel"], "sequence_parallel": True}
        for changes, hidden in (({}, False), ({
                "parallel": split
        }, True), ({
                "recompute": "selective"
        }, True), ({
                "parallel": split,
                "notes": "Megatron-DeepSpeed"
        }, False)):
            case = read_case(row(**changes))
            self.assertEqual(case.plan.backward_overlap, hidden)
            self.assertEqual(case.plan.fused_accumulation, hidden)

    def test_megatron_of_2022_stores_scores(self) -> None:
        for name, is_so in (("Korthikanti et al., arXiv:2205.05198",
                             True), ("Megatron-LM README 2022 tables", True),
                            ("Megatron-LM README 2020 tables", False),
                            ("NeMo performance summary 24.07", False)):
            case = read_case(row(source={"name": name}, dtype="bf16"))
            self.assertEqual(case.plan.backward_overlap, is_so)
            self.assertEqual(case.plan.fused_attention, not is_so)
        stated = read_case(
            row(source={"name": "Korthikanti"}, attention="flash"))
        self.assertTrue(stated.plan.fused_attention)

    def test_adapters_leave_weights_frozen(self) -> None:
        flops = float(read_case(row()).model.model_flops(1))
        for changes, frozen in (({}, False), ({
                "task": "lora"
        }, True), ({
                "measured": {
                    "tokens_per_s_per_gpu": 1000,
                    "model_tflops_per_gpu": 2 / 3 * flops / 1e9
                }
        }, True)):
            self.assertEqual(read_case(row(**changes)).plan.frozen, frozen)

    def test_tests_of_megatron_core_wait_for_their_host(self) -> None:
        model = {**row()["model"], "family": "gpt"}
        tests = {"name": "Megatron-LM functional-test golden values"}
        core, *others = (read_case(row(model=m, source=s)).plan
                         for m, s in ((model, tests), (row()["model"], tests),
                                      (model, {
                                          "name": "a paper"
                                      })))
        for other in others:
            self.assertGreater(core.host_factor, other.host_factor)
            self.assertGreater(core.step_host_s, other.step_host_s)

    def test_losses_are_compiled_from_2025_on(self) -> None:
        parallel = {"dp": 8, "sharding": "fsdp2"}
        for file, each in (("llama3_h100_202412.md", 14),
                           ("llama3_h200_202506.md", 4)):
            case = read_case(
                row(dtype="bf16",
                    torch_compile=True,
                    parallel=parallel,
                    source={
                        "name": "torchtitan",
                        "file": file
                    }))
            self.assertEqual(case.plan.loss_bytes, each)

    def test_a_micro_batch_that_is_not_stated_is_a_usual_one(self) -> None:
        for seq, batch, micro, count in ((1024, 32, 8, 2), (1024, 20, 5, 2),
                                         (4096, 32, 2, 8), (16384, 32, 1, 16)):
            plan = read_case(
                row(micro_batch=None,
                    global_batch=batch,
                    measured={"iteration_time_s": 60.0},
                    model={
                        **row()["model"], "seq": seq
                    })).plan
            self.assertEqual((plan.micro_batch, plan.num_microbatches),
                             (micro, count))

    def test_plain_pytorch_recomputes_its_own_way(self) -> None:
        fsdp = {"dp": 8, "sharding": "fsdp2"}
        for parallel, recompute, more, expected in (
            (fsdp, "full", {}, (FULL, True, SECOND)),
            (fsdp, "selective", {}, (ALTERNATE, True, SECOND)),
            (fsdp, "full", {
                "mp_mode": "DEFAULT"
            }, (FULL, True, FIRST)),
            (fsdp, "full", {
                "mp_mode": "PURE"
            }, (FULL, False, FIRST)),
            (fsdp, "selective", {
                "transformer_impl": "transformer_engine"
            }, (SELECTIVE, False, OWN)),
            (fsdp, "selective", {
                "task": "pretrain"
            }, (SELECTIVE, False, OWN)),
            (row()["parallel"], "selective", {}, (SELECTIVE, False, OWN)),
            ({
                **fsdp, "sharding": "zero1",
                "zero1_group": 8
            }, "full", {
                "attention": "flash"
            }, (FULL, False, FIRST)),
        ):
            plan = read_case(
                row(parallel=parallel, recompute=recompute, **more)).plan
            self.assertEqual(
                (plan.recompute, plan.stops_early, plan.attention_kernel),
                expected)

    def test_devices_that_are_not_stated_are_a_node(self) -> None:
        hardware = {"gpu": "A100-80GB"}
        for name, tp, ep, dp in (("test", 2, 1, 4), ("test", 3, 1, 2),
                                 ("a_release", 16, 1, 4), ("test", 8, 16, 2)):
            parallel = {"tp": tp, "ep": ep}
            model = {**row()["model"], "name": name}
            case = read_case(
                row(hardware=hardware, parallel=parallel, model=model))
            self.assertEqual(case.plan.dp, dp)

    def test_what_optimizers_hold(self) -> None:
        sharded = {**row()["parallel"], "sharding": "zero1"}
        for notes, parallel, held in (("DeepSpeed", sharded, 18),
                                      ("DeepSpeed", row()["parallel"],
                                       12), ("", sharded, 12)):
            case = read_case(row(notes=notes, parallel=parallel))
            self.assertEqual(case.plan.master_bytes, held)

    def test_tests_are_named_after_their_flags(self) -> None:
        for name, group, loss in (("multi_dist_optimizer_instances", 2, 6),
                                  ("cross_entropy_loss_fusion", 0, 10)):
            parallel = {"tp": 2, "dp": 4, "sharding": "zero1"}
            model = {**row()["model"], "name": f"gpt3_{name}"}
            case = read_case(row(parallel=parallel, model=model))
            self.assertEqual(case.plan.shard_group, group)
            self.assertEqual(case.plan.loss_bytes, loss)

    def test_libraries_that_multiply_in_8_bits_fuse_kernels(self) -> None:
        model = {**row()["model"], "gated_mlp": True}
        for dtype, fused in (("bf16", False), ("FP8", True)):
            case = read_case(
                row(dtype=dtype,
                    model=model,
                    parallel={
                        "fsdp": 8,
                        "sharding": "fsdp"
                    }))
            self.assertEqual(bool(case.plan.fused_kernels), fused)

    def test_local_batches_of_full_sharding(self) -> None:
        case = read_case(
            row(global_batch=None,
                micro_batch=None,
                local_batch=3,
                parallel={
                    "tp": 1,
                    "pp": 1,
                    "dp": 8,
                    "sharding": "fsdp2"
                }))
        self.assertEqual((case.plan.micro_batch, case.plan.num_microbatches,
                          case.plan.sharding), (3, 1, FSDP))

    def test_known_models_are_looked_up(self) -> None:
        case = read_case(
            row(model={
                "name": "LLAMA2-70B",
                "seq": 4096
            },
                measured={"peak_mem_gb": 70},
                dtype="bf16"))
        self.assertEqual((case.model.layers, case.model.kv_heads), (80, 8))

    def test_stated_fabrics_are_per_device(self) -> None:
        for text, rate in (("4 x 100Gb RoCE",
                            6.25e9), ("RDMA 400 Gb/s per GPU", 50e9),
                           ("1600 Gbps node-node interconnect",
                            25e9), ("8 x HDR 200Gb/s InfiniBand",
                                    25e9), ("100 Gbps Ethernet", 1.5625e9),
                           ("8x NDR InfiniBand", 50e9),
                           ("400 Gbps EFA", 6.25e9), ("EFA v2, 3.2 Tbps",
                                                      50e9), ("EFA", None)):
            cluster = cluster_of(
                {
                    "gpu": "A100",
                    "gpus_per_node": 8,
                    "inter_link": text
                }, 16)
            usual = load_cluster("a100-80g").tiers[-1].link
            with self.subTest(text):
                self.assertEqual(cluster.tiers[-1].link.bandwidth_bytes_per_s,
                                 rate or usual.bandwidth_bytes_per_s)


class TestMeasured(unittest.TestCase):

    def _seconds(self, **changes: Any) -> float:
        seconds = read_case(row(**changes)).measured_s
        assert seconds is not None
        return seconds

    def test_repeats_count_by_their_median(self) -> None:
        self.assertEqual(
            self._seconds(measured={"iteration_time_s": [2.0, 9.0, 3.0]}), 3.0)

    def test_tokens_and_sequences(self) -> None:
        tokens = 32 * 1024
        for name, rate in (("tokens_per_s_per_gpu", tokens / 8),
                           ("tokens_per_s", tokens), ("sequences_per_s", 32)):
            with self.subTest(name):
                self.assertAlmostEqual(self._seconds(measured={name: rate}),
                                       1.0)

    def test_flops_by_convention(self) -> None:
        model = read_case(row()).model
        flops = float(model.model_flops(32 * 1024))
        rate = flops / 8 / 2e12
        self.assertAlmostEqual(
            self._seconds(measured={"model_tflops_per_gpu": rate}), 2.0)
        self.assertAlmostEqual(
            self._seconds(measured={"hw_tflops_per_gpu": rate}), 2.0 * 4 / 3)
        simple = 8 * float(model.parameters) * 32 * 1024 / 8 / 2e12
        self.assertAlmostEqual(
            self._seconds(measured={"hw_tflops_per_gpu": simple},
                          flops_convention="8*N*tokens/(t*gpus)"), 2.0)


class TestUnreadable(unittest.TestCase):

    def _refused(self, message: str, **changes: Any) -> None:
        with self.assertRaisesRegex(Unreadable, message):
            read_case(row(**changes))

    def test_a_run_without_measurements_is_priced(self) -> None:
        for measured in ({}, {"oom": True}, {"loss": 2.0}):
            case = read_case(row(measured=measured))
            self.assertEqual((case.measured_s, case.measured_bytes),
                             (None, None))

    def test_reasons(self) -> None:
        self._refused("no preset for devices called 'Abacus'",
                      hardware={"gpu": "Abacus"})
        self._refused("'auto', its sizes are not stated",
                      parallel={"plan": "auto"})
        self._refused("layers and hidden size are not stated",
                      model={"name": "secret"})
        self._refused("the sequence length is not stated",
                      model={
                          "name": "GPT",
                          "layers": 2,
                          "hidden": 64
                      })
        self._refused("neither the micro-batch",
                      micro_batch=None,
                      global_batch=None)
        self._refused("one sequence does not fit",
                      micro_batch=None,
                      recompute=None,
                      model={
                          **row()["model"], "seq": 2**20
                      })
        self._refused("no multiple of tp x pp x cp = 3",
                      parallel={
                          "tp": 3,
                          "pp": 1
                      })
        self._refused("more than the devices' peak",
                      measured={"iteration_time_ms": 0.1})


if __name__ == "__main__":
    unittest.main()
