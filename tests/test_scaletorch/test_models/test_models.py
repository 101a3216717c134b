"""What the models compute, alone and on the meta device."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from planner.capture.capture import capture
from scaletorch import models, parallel
from scaletorch.models.losses import next_token, same_token
from scaletorch.models.output import Output
from tests.test_scaletorch.small import on_ranks, whole
from tests.test_scaletorch.test_models.tiny import TINY, documents, tiny


class TestForward(unittest.TestCase):

    def test_a_loss_or_logits(self) -> None:
        for name in TINY:
            with self.subTest(name):
                model: Any = tiny(name)
                inputs = model.example_inputs(batch_size=4)
                trained = model(**inputs)
                self.assertIsNone(trained.logits)
                self.assertEqual(trained.loss.shape, ())
                trained.loss.backward()
                target = "noise" if name == "dit-s" else "labels"
                del inputs[target]
                if name == "t5-small":
                    inputs["targets"] = inputs["tokens"]
                found = model(**inputs)
                self.assertIsNone(found.loss)
                self.assertEqual(found.logits.shape[0], 4)
                self.assertEqual(found.logits.dtype, torch.float64)

    def test_a_start_near_chance(self) -> None:
        """The initial loss is that of guessing, so no layer explodes."""
        for name in ("llama3-8b", "qwen3-0.6b", "gpt2", "bert-base"):
            with self.subTest(name):
                model: Any = tiny(name, vocabulary_size=512)
                loss = model(**model.example_inputs(batch_size=4)).loss
                self.assertAlmostEqual(float(loss.detach()), 6.24, delta=0.3)

    def test_a_sequence_beyond_the_context(self) -> None:
        for name in ("gpt2", "bert-base"):
            with self.subTest(name):
                model: Any = tiny(name)
                context = model.config.context
                with self.assertRaisesRegex(
                        ValueError, f"a sequence has {context + 1} tokens, "
                        rf"but \w+Config.context is {context}; take shorter"):
                    model(torch.zeros(2, context + 1, dtype=torch.int64))

    def test_nothing_looks_ahead(self) -> None:
        for name in ("llama3-8b", "qwen3-0.6b", "gpt2"):
            with self.subTest(name):
                model: Any = tiny(name).eval()
                tokens = model.example_inputs(batch_size=2)["tokens"]
                other = tokens.clone()
                other[:, 9:] = (other[:, 9:] + 1) % 64
                a, b = model(tokens).logits, model(other).logits
                torch.testing.assert_close(a[:, :9], b[:, :9])
                self.assertFalse(torch.equal(a[:, 9:], b[:, 9:]))

    def test_documents_do_not_see_each_other(self) -> None:
        for name in ("llama3-8b", "qwen3-0.6b", "gpt2", "mixtral-8x7b",
                     "deepseek-v3"):
            with self.subTest(name):
                model: Any = tiny(name).eval()
                tokens = model.example_inputs(batch_size=2)["tokens"]
                found = model(tokens, **documents(tokens, 6)).logits
                for part in (slice(0, 6), slice(6, 16)):
                    torch.testing.assert_close(found[:, part],
                                               model(tokens[:, part]).logits)

    def test_examples_are_the_same_each_time(self) -> None:
        model: Any = tiny("vit-b16")
        one, two = model.example_inputs(), model.example_inputs()
        self.assertEqual(one["images"].dtype, torch.float64)
        for name, value in one.items():
            self.assertTrue(torch.equal(value, two[name]), name)

    def test_t5_needs_something_to_decode(self) -> None:
        with self.assertRaisesRegex(ValueError, "needs targets"):
            tiny("t5-small")(torch.zeros(1, 4, dtype=torch.int64))

    def test_patches_come_back_in_place(self) -> None:
        model: Any = tiny("dit-s")
        with torch.no_grad():
            model.head.output.bias.copy_(torch.arange(16.0))
        inputs = model.example_inputs(batch_size=1)
        del inputs["noise"]
        found = model(**inputs).logits
        self.assertEqual(found.shape, inputs["latents"].shape)
        corner = torch.tensor([[0.0, 4.0], [8.0, 12.0]], dtype=torch.float64)
        self.assertTrue(torch.equal(found[0, 0, 4:6, 2:4], corner))


class TestLosses(unittest.TestCase):

    def test_labels(self) -> None:
        logits = torch.randn(2, 5, 7)
        labels = torch.randint(7, (2, 5))
        shifted = next_token(logits, labels).loss
        by_hand = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(shifted, by_hand)
        some = labels.clone()
        some[:, 2:] = -100
        torch.testing.assert_close(
            same_token(logits, some).loss,
            same_token(logits[:, :2], labels[:, :2]).loss)

    def test_half_precision_sums_in_float(self) -> None:
        logits = torch.randn(1, 3, 7, dtype=torch.bfloat16)
        loss = same_token(logits, torch.zeros(1, 3, dtype=torch.int64)).loss
        assert loss is not None
        self.assertEqual(loss.dtype, torch.float32)

    def test_output_is_a_pytree(self) -> None:
        from torch.utils import _pytree as pytree
        output = Output(loss=torch.ones(()))
        twice = pytree.tree_map(lambda x: 2 * x, output)
        self.assertEqual(twice, Output(loss=torch.tensor(2.0)))


class TestMeta(unittest.TestCase):

    def test_every_model_is_built_and_captured_there(self) -> None:
        for name, fields in TINY.items():
            with self.subTest(name):
                with torch.device("meta"):
                    model: Any = models.build(name, **fields)
                inputs = model.example_inputs(batch_size=4)
                tensors = [*model.state_dict().values(), *inputs.values()]
                self.assertTrue(all(t.is_meta for t in tensors))
                program = capture(model, inputs)
                self.assertIsNotNone(program.loss)

    def test_equal_blocks_are_one_class(self) -> None:
        for name in ("llama3-8b", "gpt2", "bert-base", "vit-b16", "dit-s"):
            with self.subTest(name):
                with torch.device("meta"):
                    model: Any = models.build(name, **{
                        **TINY[name], "depth": 5
                    })
                program = capture(model, model.example_inputs(batch_size=4))
                counts = [
                    sum(b.block_class == c for b in program.blocks)
                    for c in {b.block_class
                              for b in program.blocks}
                ]
                self.assertIn(5, counts)

    def test_initialised_alike_on_any_mesh(self) -> None:
        for name in ("bert-base", "vit-b16", "resnet18"):
            with self.subTest(name):
                with torch.device("meta"):
                    model: Any = models.build(name, **TINY[name])
                inputs = model.example_inputs(batch_size=4)
                one = self.initial(model, inputs, {"dp": 2}, parallel.fsdp())
                two = self.initial(model, inputs, {"tp": 2},
                                   parallel.megatron())
                for key, value in one.items():
                    self.assertTrue(torch.equal(value, two[key]), key)
                self.assertLess(
                    float(one["head.weight"].std())
                    if "head.weight" in one else 0.02, 0.03)

    def initial(self, model: Any, inputs: Any, axes: dict[str, int],
                plan: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return on_ranks(
            model, inputs, lambda m: {
                n: whole(t)
                for n, t in m.state_dict().items()
            }, axes, plan)[0]


if __name__ == "__main__":
    unittest.main()
