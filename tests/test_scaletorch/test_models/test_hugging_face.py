"""The same weights give the same logits there and here."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file
from torch import nn

from scaletorch import models
from tests.test_scaletorch.test_models.tiny import TINY, tiny

IDS: dict[str, Any] = dict(pad_token_id=None, bos_token_id=1, eos_token_id=2)
DECODER: dict[str, Any] = dict(vocab_size=64,
                               hidden_size=32,
                               num_hidden_layers=2,
                               num_attention_heads=4,
                               num_key_value_heads=2,
                               intermediate_size=48,
                               **IDS)
ENCODER: dict[str, Any] = dict(hidden_size=32,
                               num_hidden_layers=2,
                               num_attention_heads=4,
                               intermediate_size=128,
                               hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0)
LLAMA31 = dict(rope_type="llama3",
               factor=8.0,
               low_freq_factor=1.0,
               high_freq_factor=4.0,
               original_max_position_embeddings=32,
               rope_theta=500_000.0)
TURNS = dict(rope_type="default", rope_theta=1_000_000.0)
YARN = dict(rope_type="yarn",
            rope_theta=10_000.0,
            factor=4.0,
            beta_fast=32.0,
            beta_slow=1.0,
            mscale=1.0,
            mscale_all_dim=1.0,
            original_max_position_embeddings=32)
LATENT: dict[str, Any] = dict(kv_lora_rank=24,
                              qk_nope_head_dim=8,
                              qk_rope_head_dim=4,
                              v_head_dim=6,
                              moe_intermediate_size=48,
                              intermediate_size=40,
                              rms_norm_eps=1e-6)


def setUpModule() -> None:
    hf.utils.logging.disable_progress_bar()


def randomised(model: nn.Module) -> nn.Module:
    """No parameter and no statistic is at a value such as 0 or 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for _, tensor in sorted(model.state_dict().items()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.02)
                if tensor.dim() > 1:
                    tensor.sub_(0.12)
    return model


def written(model: Any) -> dict[str, torch.Tensor]:
    """The tensors of the file that Hugging Face writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


class TestHuggingFace(unittest.TestCase):

    def check(self, theirs: Any, name: str, inputs: dict[str, Any],
              renamed: dict[str, str], **overrides: Any) -> None:
        """Logits and loss are equal, and the file comes back as it was."""
        theirs = randomised(theirs.double().eval())
        file = written(theirs)
        ours = models.build(name, **{**TINY[name], **overrides}).double()
        config: Any = ours.config
        state = models.from_hugging_face(file, config)
        ours.load_state_dict(state)
        ours.eval()
        back = models.to_hugging_face(ours.state_dict(), config)
        self.assertEqual(sorted(back), sorted(file))
        for key, tensor in file.items():
            self.assertTrue(torch.equal(back[key], tensor), key)
        given = {renamed.get(k, k): v for k, v in inputs.items()}
        expected, found = theirs(**given), ours(**inputs)
        torch.testing.assert_close(found.loss,
                                   expected.loss.double(),
                                   rtol=1e-6,
                                   atol=1e-6)
        if name != "t5-small":
            inputs = {k: v for k, v in inputs.items() if k != "labels"}
            torch.testing.assert_close(ours(**inputs).logits,
                                       expected.logits,
                                       rtol=1e-5,
                                       atol=1e-5)

    def check_tokens(self, theirs: Any, name: str, **overrides: Any) -> None:
        tokens = torch.arange(3 * 16).view(3, 16) * 7 % 60 + 3
        labels = tokens.clone()
        labels[0, 4:9] = -100
        self.check(theirs, name, {
            "tokens": tokens,
            "labels": labels
        }, {"tokens": "input_ids"}, **overrides)

    def check_images(self, theirs: Any, name: str, size: int) -> None:
        torch.manual_seed(2)
        self.check(
            theirs, name, {
                "images": torch.randn(3, 3, size, size).double(),
                "labels": torch.tensor([1, 0, 7])
            }, {"images": "pixel_values"})

    def test_llama(self) -> None:
        config = hf.LlamaConfig(**DECODER,
                                rms_norm_eps=1e-5,
                                rope_parameters={
                                    "rope_type": "default",
                                    "rope_theta": 500_000.0
                                })
        self.check_tokens(hf.LlamaForCausalLM(config), "llama3-8b")

    def test_llama_with_a_stretched_context_and_a_tied_head(self) -> None:
        config = hf.LlamaConfig(**DECODER,
                                rms_norm_eps=1e-5,
                                max_position_embeddings=64,
                                rope_parameters=LLAMA31,
                                tie_word_embeddings=True)
        scaling = models.RotaryScaling(original_context=32)
        self.check_tokens(hf.LlamaForCausalLM(config),
                          "llama3-8b",
                          rotary_scaling=scaling,
                          tied=True)

    def test_qwen3(self) -> None:
        for tied in (False, True):
            config = hf.Qwen3Config(**DECODER,
                                    head_dim=16,
                                    tie_word_embeddings=tied,
                                    rope_parameters={
                                        "rope_type": "default",
                                        "rope_theta": 1_000_000.0
                                    })
            with self.subTest(tied=tied):
                self.check_tokens(hf.Qwen3ForCausalLM(config),
                                  "qwen3-0.6b",
                                  tied=tied)

    def test_mixtral(self) -> None:
        config = hf.MixtralConfig(experts_implementation="eager",
                                  **DECODER,
                                  num_local_experts=4,
                                  rms_norm_eps=1e-5,
                                  rope_parameters=TURNS)
        self.check_tokens(hf.MixtralForCausalLM(config), "mixtral-8x7b")

    def test_qwen3_moe(self) -> None:
        config = hf.Qwen3MoeConfig(experts_implementation="eager",
                                   **DECODER,
                                   head_dim=16,
                                   num_experts=4,
                                   num_experts_per_tok=2,
                                   norm_topk_prob=True,
                                   moe_intermediate_size=48,
                                   rope_parameters=TURNS)
        self.check_tokens(hf.Qwen3MoeForCausalLM(config), "qwen3-30b-a3b")

    def test_deepseek_v2(self) -> None:
        config = hf.DeepseekV2Config(experts_implementation="eager",
                                     **{
                                         **DECODER,
                                         **LATENT, "q_lora_rank": None,
                                         "num_key_value_heads": 4
                                     },
                                     n_routed_experts=4,
                                     num_experts_per_tok=2,
                                     n_shared_experts=2,
                                     routed_scaling_factor=1.0,
                                     topk_method="greedy",
                                     first_k_dense_replace=1,
                                     rope_parameters={
                                         "rope_type": "default",
                                         "rope_theta": 10_000.0
                                     })
        self.check_tokens(hf.DeepseekV2ForCausalLM(config),
                          "deepseek-v2-lite",
                          dense_depth=1,
                          rotary_scaling=None)

    def test_deepseek_v3(self) -> None:
        for turns, scaling in (({
                "rope_type": "default",
                "rope_theta": 10_000.0
        }, None), (YARN, models.Yarn(factor=4.0, original_context=32))):
            config = hf.DeepseekV3Config(experts_implementation="eager",
                                         **{
                                             **DECODER,
                                             **LATENT, "q_lora_rank": 20,
                                             "num_hidden_layers": 3,
                                             "num_key_value_heads": 4
                                         },
                                         n_routed_experts=8,
                                         num_experts_per_tok=3,
                                         n_shared_experts=1,
                                         n_group=4,
                                         topk_group=2,
                                         routed_scaling_factor=2.5,
                                         norm_topk_prob=True,
                                         first_k_dense_replace=1,
                                         rope_interleave=True,
                                         max_position_embeddings=128,
                                         rope_parameters=turns)
            with self.subTest(turns["rope_type"]):
                self.check_tokens(hf.DeepseekV3ForCausalLM(config),
                                  "deepseek-v3",
                                  rotary_scaling=scaling)

    def test_gpt2(self) -> None:
        config = hf.GPT2Config(n_embd=32,
                               n_layer=2,
                               n_head=4,
                               vocab_size=64,
                               n_positions=16,
                               **IDS)
        self.check_tokens(hf.GPT2LMHeadModel(config), "gpt2")

    def test_bert(self) -> None:
        config = hf.BertConfig(**ENCODER,
                               vocab_size=64,
                               max_position_embeddings=16)
        self.check_tokens(hf.BertForMaskedLM(config), "bert-base")

    def test_bert_with_padding_and_segments(self) -> None:
        config = hf.BertConfig(**ENCODER,
                               vocab_size=64,
                               max_position_embeddings=16)
        tokens = torch.arange(2 * 16).view(2, 16) * 7 % 60 + 3
        mask = torch.ones(2, 16, dtype=torch.bool)
        mask[1, 10:] = False
        self.check(
            hf.BertForMaskedLM(config), "bert-base", {
                "tokens": tokens,
                "labels": tokens.masked_fill(~mask, -100),
                "segments": tokens % 2,
                "mask": mask
            }, {
                "tokens": "input_ids",
                "segments": "token_type_ids",
                "mask": "attention_mask"
            })

    def test_t5(self) -> None:
        config = hf.T5Config(d_model=32,
                             d_kv=16,
                             d_ff=48,
                             num_layers=2,
                             num_heads=4,
                             vocab_size=64,
                             pad_token_id=0,
                             decoder_start_token_id=0)
        self.check_tokens(hf.T5ForConditionalGeneration(config), "t5-small")

    def test_vit(self) -> None:
        config = hf.ViTConfig(**ENCODER,
                              image_size=8,
                              patch_size=4,
                              num_labels=8,
                              layer_norm_eps=1e-6)
        self.check_images(hf.ViTForImageClassification(config), "vit-b16", 8)

    def test_resnet(self) -> None:
        config = hf.ResNetConfig(embedding_size=8,
                                 hidden_sizes=[8, 16],
                                 depths=[1, 1],
                                 num_labels=8,
                                 layer_type="basic")
        self.check_images(hf.ResNetForImageClassification(config), "resnet18",
                          16)
        config = hf.ResNetConfig(embedding_size=8,
                                 hidden_sizes=[32, 64],
                                 depths=[1, 2],
                                 num_labels=8,
                                 layer_type="bottleneck")
        self.check_images(hf.ResNetForImageClassification(config), "resnet50",
                          16)


class TestNames(unittest.TestCase):

    def test_a_checkpoint_without_the_prefix(self) -> None:
        ours: Any = tiny("gpt2")
        file = models.to_hugging_face(ours.state_dict(), ours.config)
        bare = {k.removeprefix("transformer."): v for k, v in file.items()}
        bare["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
        state = models.from_hugging_face(bare, ours.config)
        self.assertEqual(sorted(state), sorted(ours.state_dict()))

    def test_a_strange_name(self) -> None:
        config = models.config("llama3-8b", tied=True)
        with self.assertRaisesRegex(
                ValueError, "model.layers.0.bias is no tensor of the family "
                "of LlamaConfig; is the config"):
            models.from_hugging_face({"model.layers.0.bias": torch.ones(1)},
                                     config)

    def test_a_missing_part(self) -> None:
        ours: Any = tiny("gpt2")
        state = ours.state_dict()
        del state["layers.1.attention.key.bias"]
        with self.assertRaisesRegex(
                ValueError, "lacks layers.1.attention.key.bias, which"):
            models.to_hugging_face(state, ours.config)

    def test_a_missing_expert(self) -> None:
        ours: Any = tiny("mixtral-8x7b")
        file = models.to_hugging_face(ours.state_dict(), ours.config)
        del file["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
        with self.assertRaisesRegex(
                ValueError, r"lacks model.layers.*w3.weight of expert 2, a "
                "part of layers.1.mixture.experts.gate_up"):
            models.from_hugging_face(file, ours.config)

    def test_a_family_that_is_not_there(self) -> None:
        with self.assertRaisesRegex(ValueError, "DLRMConfig is of a family"):
            models.to_hugging_face({}, models.config("dlrm-criteo"))
        with self.assertRaisesRegex(ValueError, "no parallel layers"):
            models.to_hugging_face({}, models.config("vit-22b"))


if __name__ == "__main__":
    unittest.main()
