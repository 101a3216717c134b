"""Settings of Hugging Face models that change how they are traced."""

from __future__ import annotations

import unittest
import warnings

import torch
import transformers as hf
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from planner.capture.capture import capture
from planner.capture.entry import bind_inputs
from tests.model_zoo import MODELS, VOCABULARY, tokens
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_capture.tiny import tiny_config


class _Masked(nn.Module):
    """Can't take a mask where there is none to be."""

    def __init__(self, config: hf.BertConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = create_bidirectional_mask(self.config,
                                         x.unsqueeze(0),
                                         attention_mask=None)
        y: torch.Tensor = self.linear(x)
        return (y if mask is None else y.view(mask.shape)).sum()


class TestHuggingFace(unittest.TestCase):

    def test_gradient_checkpointing(self) -> None:
        for reentrant in (True, False):
            with self.subTest(reentrant=reentrant):
                model, inputs, _ = MODELS["llama"]()
                model.gradient_checkpointing_enable(
                    {"use_reentrant": reentrant})
                program = check_capture(self, *doubled(model, inputs))
                self.assertIn("activation checkpointing", program.notes[0])
                self.assertEqual(len(program.classes), 3)

    def test_a_mask_that_hides_nothing_is_not_made(self) -> None:
        model = _Masked(hf.BertConfig(attn_implementation="sdpa")).double()
        program = check_capture(self, model, (torch.ones(2, 4).double(), ))
        self.assertEqual(len(program.blocks), 1)

    def test_values_of_a_mask_that_a_model_makes(self) -> None:
        """Its landmarks can't take another mask than none."""
        config = tiny_config(
            hf.NystromformerConfig, {
                "num_landmarks": 4,
                "segment_means_seq_len": 16,
                "num_hidden_layers": 1
            })
        model = hf.NystromformerModel(config).double()
        program = check_capture(self, model, {"input_ids": tokens()})
        self.assertEqual(program.notes, ())

    def test_embeddings_as_inputs(self) -> None:
        model, inputs, _ = MODELS["llama"]()
        model, embedded = doubled(model, torch.randn(4, 16, 32))
        program = check_capture(self, model, {
            "inputs_embeds": embedded.requires_grad_(),
            "labels": inputs["labels"]
        })
        self.assertTrue(program.specs["input:0"].requires_grad)

    def test_the_cache_is_left_out(self) -> None:
        model, inputs, _ = MODELS["llama"]()
        program = capture(model, {"input_ids": inputs["input_ids"]})
        self.assertEqual(program.leaves[1].path, "kwargs['use_cache']")
        self.assertIs(program.leaves[1].constant, False)

    def test_the_cache_of_a_model_in_the_model_is_left_out(self) -> None:

        class Both(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.config = hf.LlavaConfig()

            def forward(self, x: torch.Tensor, **kwargs: bool) -> torch.Tensor:
                return x

        call = bind_inputs(Both(), (torch.ones(2), ), {}, None)
        self.assertEqual(call.paths, ("args[0]", "kwargs['use_cache']"))

    def test_dummy_inputs_with_a_warning(self) -> None:
        config = hf.LlamaConfig(hidden_size=32,
                                intermediate_size=64,
                                num_hidden_layers=1,
                                num_attention_heads=4,
                                vocab_size=VOCABULARY)
        with self.assertWarnsRegex(UserWarning,
                                   r"planning for the model's dummy_inputs"):
            program = capture(hf.LlamaForCausalLM(config))
        self.assertEqual(program.model_name, "LlamaForCausalLM")

    def test_hooks_of_the_first_call_are_not_left(self) -> None:
        model, inputs, _ = MODELS["mixtral"]()
        before = [len(m._forward_hooks) for m in model.modules()]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            capture(model, inputs)
        self.assertEqual(before,
                         [len(m._forward_hooks) for m in model.modules()])


if __name__ == "__main__":
    unittest.main()
