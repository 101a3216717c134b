"""Models that no trace can hold, spread over ranks, equal to one device."""

from __future__ import annotations

import logging
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import transformers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.capture.capture import capture_call
from planner.capture.entry import bind_inputs, split_example
from planner.constraints import forbid
from planner.ir.errors import CaptureError
from planner.ir.program import Program
from planner.recipes import RECIPES
from scaletorch import api
from scaletorch.compare import observed, reference
from scaletorch.runtime.ranks import run_ranks
from tests.markers import nightly
from tests.test_planner.test_capture.test_opaque import net

Made = tuple[nn.Module, Any]

_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0
}
_SMALL_PAIR = {
    "vocab_size": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0
}


def ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 64, (2, 16), generator=generator)


def text(model: nn.Module) -> Made:
    return model, {"input_ids": ids(), "labels": ids()}


def longformer() -> Made:
    # Each layer costs its capture many attempts.
    config = transformers.LongformerConfig(attention_window=4,
                                           **_SMALL | {"num_hidden_layers": 1})
    return text(transformers.LongformerForMaskedLM(config))


def led() -> Made:
    config = transformers.LEDConfig(d_model=32,
                                    encoder_layers=2,
                                    decoder_layers=2,
                                    encoder_attention_heads=4,
                                    decoder_attention_heads=4,
                                    attention_window=4,
                                    max_encoder_position_embeddings=40,
                                    max_decoder_position_embeddings=40,
                                    **_SMALL_PAIR)
    return text(transformers.LEDForConditionalGeneration(config))


def ibert() -> Made:
    config = transformers.IBertConfig(**_SMALL)
    return text(transformers.IBertForMaskedLM(config))


def prophetnet() -> Made:
    config = transformers.ProphetNetConfig(hidden_size=32,
                                           num_encoder_layers=2,
                                           num_decoder_layers=2,
                                           num_encoder_attention_heads=4,
                                           num_decoder_attention_heads=4,
                                           max_position_embeddings=40,
                                           **_SMALL_PAIR)
    return text(transformers.ProphetNetForConditionalGeneration(config))


def vilt() -> Made:
    config = transformers.ViltConfig(image_size=32,
                                     patch_size=8,
                                     num_labels=3,
                                     **_SMALL)
    generator = torch.Generator().manual_seed(0)
    return transformers.ViltForQuestionAnswering(config), {
        "input_ids": ids(),
        "pixel_values": torch.randn(2, 3, 32, 32, generator=generator),
        "labels": torch.rand(2, 3, generator=generator)
    }


def switch() -> Made:
    config = transformers.SwitchTransformersConfig(vocab_size=64,
                                                   d_model=32,
                                                   d_kv=8,
                                                   d_ff=64,
                                                   num_layers=2,
                                                   num_sparse_encoder_layers=1,
                                                   num_decoder_layers=2,
                                                   num_sparse_decoder_layers=1,
                                                   num_heads=4,
                                                   num_experts=4,
                                                   expert_capacity=8,
                                                   dropout_rate=0.0,
                                                   router_jitter_noise=0.0,
                                                   decoder_start_token_id=0)
    model, inputs = text(
        transformers.SwitchTransformersForConditionalGeneration(config))
    return model, {**inputs, "attention_mask": torch.ones_like(ids())}


def captured_once() -> Any:
    """In place of `capture_call`, for calls that are all alike."""
    found: list[Program] = []

    def capture(*args: Any, **options: Any) -> Program:
        if not found:
            found.append(capture_call(*args, **options))
        return found[0]

    return mock.patch.object(api, "capture_call", capture)


class Case(unittest.TestCase):

    def setUp(self) -> None:
        logger = logging.getLogger("scaletorch")
        level = logger.level
        logger.setLevel(logging.ERROR)
        self.addCleanup(logger.setLevel, level)

    def check(self, make: Callable[[], Made], *recipes: str) -> None:
        torch.manual_seed(0)
        model, inputs = make()
        args, kwargs = split_example(inputs)
        expected = reference(model, bind_inputs(model, args, kwargs, None),
                             None)
        with captured_once():
            for recipe in recipes or ("ddp", "megatron"):
                for found in run_ranks(2, self.work, model, inputs, recipe):
                    self.check_same(f"{make.__name__} {recipe}", found,
                                    expected)

    def work(self, rank: int, model: nn.Module, inputs: Any,
             recipe: str) -> dict[str, torch.Tensor]:
        """Outputs and gradients on a rank."""
        del rank
        axis = "tp" if recipe == "megatron" else "dp"
        module = scaletorch.auto_parallelize(model,
                                             init_device_mesh(
                                                 "cpu", (2, ),
                                                 mesh_dim_names=(axis, )),
                                             example_inputs=inputs,
                                             plan=RECIPES[recipe](),
                                             cluster="cpu-gloo")
        args, kwargs = split_example(inputs)
        return observed(module, module(*args, **kwargs))

    def check_same(self, what: str, found: dict[str, torch.Tensor],
                   expected: dict[str, torch.Tensor]) -> None:
        for name in sorted({*found, *expected}):
            zero = torch.zeros(())
            a, b = (f.get(name, zero).double() for f in (found, expected))
            # Gradients that cancel out (a key's bias) are noise alone.
            scale = max(float(b.abs().max()), 1e-3)
            self.assertLessEqual(
                float((a - b).abs().max()) / scale, 1e-5, f"{what}: {name}")


class TestSmall(Case):

    def test_branches(self) -> None:
        self.check(lambda: (net(), (torch.randn(4, 4).double(), )), "ddp",
                   "megatron", "fsdp")

    def test_forbidden(self) -> None:

        def work(rank: int) -> str:
            del rank
            with self.assertRaisesRegex(CaptureError, "use torch.where"):
                scaletorch.auto_parallelize(net(),
                                            2,
                                            example_inputs=(torch.randn(
                                                4, 4).double(), ),
                                            constraints=forbid("opaque"),
                                            cluster="cpu-gloo")
            return "refused"

        self.assertEqual(run_ranks(2, work), ["refused"] * 2)

    def test_replicas_draw_alike_and_buffers_move(self) -> None:
        model, x = net(0.5), torch.randn(4, 4).double()

        def work(rank: int) -> Any:
            del rank
            module = scaletorch.auto_parallelize(model,
                                                 init_device_mesh(
                                                     "cpu", (2, ),
                                                     mesh_dim_names=("dp", )),
                                                 example_inputs=(x, ),
                                                 plan=RECIPES["ddp"](),
                                                 cluster="cpu-gloo")
            first, second = (module(x)[0].detach() for _ in range(2))
            moved = module.get_buffer("layers.0.seen").clone()
            module.eval()
            return first, second, moved, module(x)[0].detach()

        one, other = run_ranks(2, work)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
        self.assertFalse(torch.equal(one[0], one[1]))
        self.assertGreater(float(one[2].abs().max()), 0.0)
        torch.testing.assert_close(one[3].shape, model.eval()(x)[0].shape)


class TestModels(Case):

    def test_prophetnet(self) -> None:
        self.check(prophetnet)

    def test_vilt(self) -> None:
        self.check(vilt)

    def test_longformer(self) -> None:
        self.check(longformer)

    @nightly
    def test_slower_ones(self) -> None:
        for make in (led, ibert, switch):
            with self.subTest(make.__name__):
                self.check(make)


if __name__ == "__main__":
    unittest.main()
