"""Small real models for tests: a few layers each, seeded, dropout off.

``MODELS[name]()`` or the function itself gives ``(model, example_inputs,
loss_fn)``, in training mode, ready for ``capture`` and for `eager_output`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F

__all__ = ["MODELS", "Example", "eager_output", "example", "tokens"]

Example = tuple[nn.Module, Any, Callable[..., Any] | None]

MODELS: dict[str, Callable[[], Example]] = {}
"""Every function of this file, by name."""

BATCH, SEQUENCE, VOCABULARY = 4, 16, 96

_DECODER = dict(hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=VOCABULARY,
                pad_token_id=None,
                bos_token_id=1,
                eos_token_id=2)
_ENCODER = dict(hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0)


def example(build: Callable[[], Example]) -> Callable[[], Example]:
    """Seed the generator before, and set training mode after `build`."""

    @functools.wraps(build)
    def seeded() -> Example:
        torch.manual_seed(0)
        model, inputs, loss_fn = build()
        return model.train(), inputs, loss_fn

    return seeded


def _listed(build: Callable[[], Example]) -> Callable[[], Example]:
    MODELS[build.__name__] = example(build)
    return MODELS[build.__name__]


def tokens(batch: int = BATCH, sequence: int = SEQUENCE) -> torch.Tensor:
    """Token ids that are no special tokens."""
    return torch.randint(3, VOCABULARY, (batch, sequence))


def eager_output(model: nn.Module, inputs: Any,
                 loss_fn: Callable[..., Any] | None) -> Any:
    """What one ordinary call returns; the last positional is the target."""
    if loss_fn is None:
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return loss_fn(model(*inputs[:-1]), inputs[-1])


def _language_model(model: nn.Module) -> Example:
    ids = tokens()
    return model, {"input_ids": ids, "labels": ids, "use_cache": False}, None


def _images(model: nn.Module, size: int) -> Example:
    inputs = {
        "pixel_values": torch.randn(BATCH, 3, size, size),
        "labels": torch.randint(0, 8, (BATCH, ))
    }
    return model, inputs, None


def _token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


@_listed
def gpt2() -> Example:
    config = hf.GPT2Config(n_embd=32,
                           n_layer=3,
                           n_head=4,
                           vocab_size=VOCABULARY,
                           n_positions=32,
                           bos_token_id=1,
                           eos_token_id=2,
                           resid_pdrop=0.0,
                           embd_pdrop=0.0,
                           attn_pdrop=0.0)
    return _language_model(hf.GPT2LMHeadModel(config))


@_listed
def llama() -> Example:
    return _language_model(hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER)))


@_listed
def qwen3() -> Example:
    config = hf.Qwen3Config(**_DECODER, head_dim=8)
    return _language_model(hf.Qwen3ForCausalLM(config))


@_listed
def gemma2() -> Example:
    config = hf.Gemma2Config(**{
        **_DECODER, "num_hidden_layers": 4
    },
                             head_dim=8)
    return _language_model(hf.Gemma2ForCausalLM(config))


@_listed
def phi3() -> Example:
    config = hf.Phi3Config(**_DECODER, resid_pdrop=0.0, embd_pdrop=0.0)
    return _language_model(hf.Phi3ForCausalLM(config))


@_listed
def mixtral() -> Example:
    config = hf.MixtralConfig(**{
        **_DECODER, "num_hidden_layers": 2
    },
                              num_local_experts=4,
                              experts_implementation="eager",
                              output_router_logits=True)
    return _language_model(hf.MixtralForCausalLM(config))


@_listed
def qwen3_moe() -> Example:
    config = hf.Qwen3MoeConfig(**{
        **_DECODER, "num_hidden_layers": 2
    },
                               moe_intermediate_size=24,
                               num_experts=8,
                               num_experts_per_tok=2,
                               head_dim=8,
                               norm_topk_prob=True,
                               experts_implementation="eager",
                               output_router_logits=True)
    return _language_model(hf.Qwen3MoeForCausalLM(config))


@_listed
def deepseek_v3() -> Example:
    config = hf.DeepseekV3Config(**{
        **_DECODER, "num_hidden_layers": 3,
        "num_key_value_heads": 4
    },
                                 moe_intermediate_size=16,
                                 n_routed_experts=8,
                                 n_shared_experts=1,
                                 num_experts_per_tok=2,
                                 experts_implementation="eager",
                                 n_group=4,
                                 topk_group=2,
                                 first_k_dense_replace=1,
                                 kv_lora_rank=16,
                                 q_lora_rank=16,
                                 qk_rope_head_dim=8,
                                 qk_nope_head_dim=8,
                                 v_head_dim=8)
    return _language_model(hf.DeepseekV3ForCausalLM(config))


@_listed
def gpt_oss() -> Example:
    config = hf.GptOssConfig(**{
        **_DECODER, "num_hidden_layers": 2
    },
                             head_dim=8,
                             sliding_window=8,
                             num_local_experts=4,
                             num_experts_per_tok=2,
                             experts_implementation="eager",
                             attention_dropout=0.0)
    model = hf.GptOssForCausalLM(config)
    model.set_attn_implementation("eager")
    return _language_model(model)


@_listed
def bert() -> Example:
    config = hf.BertConfig(**_ENCODER, vocab_size=VOCABULARY)
    ids = tokens()
    return hf.BertForMaskedLM(config), {"input_ids": ids, "labels": ids}, None


@_listed
def modernbert() -> Example:
    config = hf.ModernBertConfig(hidden_size=32,
                                 intermediate_size=64,
                                 num_hidden_layers=3,
                                 num_attention_heads=4,
                                 vocab_size=VOCABULARY,
                                 pad_token_id=0,
                                 bos_token_id=1,
                                 eos_token_id=2,
                                 cls_token_id=1,
                                 sep_token_id=2)
    ids = tokens()
    inputs = {"input_ids": ids, "labels": ids}
    return hf.ModernBertForMaskedLM(config), inputs, None


@_listed
def t5() -> Example:
    config = hf.T5Config(d_model=32,
                         d_kv=8,
                         d_ff=64,
                         num_layers=2,
                         num_heads=4,
                         vocab_size=VOCABULARY,
                         dropout_rate=0.0,
                         decoder_start_token_id=0)
    return _language_model(hf.T5ForConditionalGeneration(config))


@_listed
def vit() -> Example:
    config = hf.ViTConfig(**_ENCODER,
                          image_size=16,
                          patch_size=4,
                          num_labels=8)
    return _images(hf.ViTForImageClassification(config), 16)


@_listed
def convnext() -> Example:
    config = hf.ConvNextConfig(hidden_sizes=[8, 16, 32, 64],
                               depths=[1, 1, 2, 1],
                               num_labels=8,
                               image_size=32)
    return _images(hf.ConvNextForImageClassification(config), 32)


@_listed
def resnet() -> Example:
    config = hf.ResNetConfig(embedding_size=8,
                             hidden_sizes=[8, 16, 32, 64],
                             depths=[1, 1, 2, 1],
                             num_labels=8,
                             layer_type="basic")
    return _images(hf.ResNetForImageClassification(config), 32)


@_listed
def clip() -> Example:
    tower = dict(hidden_size=32,
                 intermediate_size=64,
                 num_hidden_layers=2,
                 num_attention_heads=4)
    text = dict(vocab_size=VOCABULARY,
                max_position_embeddings=32,
                eos_token_id=2,
                bos_token_id=1,
                pad_token_id=0)
    config = hf.CLIPConfig(text_config={
        **tower,
        **text
    },
                           vision_config={
                               **tower, "image_size": 16,
                               "patch_size": 4
                           },
                           projection_dim=16)
    inputs = {
        "input_ids": tokens(),
        "pixel_values": torch.randn(BATCH, 3, 16, 16),
        "return_loss": True
    }
    return hf.CLIPModel(config), inputs, None


class Translator(nn.Module):
    """``nn.Transformer`` between an embedding and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.transformer = nn.Transformer(32,
                                          4,
                                          2,
                                          2,
                                          64,
                                          dropout=0.0,
                                          batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, source: torch.Tensor,
                target: torch.Tensor) -> torch.Tensor:
        hidden = self.transformer(self.embedding(source),
                                  self.embedding(target))
        return self.head(hidden)


@_listed
def transformer() -> Example:
    return Translator(), (tokens(), tokens(), tokens()), _token_loss


class RecurrentLM(nn.Module):
    """A language model of two LSTM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.rnn = nn.LSTM(32, 32, 2, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(ids))[0])


@_listed
def lstm() -> Example:
    # Every step of the sequence is traced on its own.
    ids = tokens(sequence=8)
    return RecurrentLM(), (ids, tokens(sequence=8)), _token_loss


class Recommender(nn.Module):
    """Embedding bags and a dense tower, joined by pairwise products."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(50, 16, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 6, 16), nn.ReLU(),
                                 nn.Linear(16, 1))

    def forward(self, dense: torch.Tensor,
                sparse: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        bags = [bag(sparse[:, i]) for i, bag in enumerate(self.bags)]
        features = torch.stack([x, *bags], 1)
        products = features @ features.transpose(1, 2)
        i, j = torch.triu_indices(4, 4, 1)
        return self.top(torch.cat([x, products[:, i, j]], 1)).squeeze(-1)


@_listed
def dlrm() -> Example:
    inputs = (torch.randn(8, 8), torch.randint(0, 50,
                                               (8, 3, 5)), torch.rand(8))
    return Recommender(), inputs, F.binary_cross_entropy_with_logits


class SmallUNet(nn.Module):
    """One level down and up, with batch and group norm and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1),
                                   nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1),
                                   nn.GroupNorm(4, 16), nn.SiLU())
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Conv2d(16, 3, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.outer(x)
        deep = self.middle(self.inner(self.pool(skip)))
        return self.head(torch.cat([skip, self.up(deep)], 1))


@_listed
def unet() -> Example:
    images = torch.randn(BATCH, 3, 16, 16)
    return SmallUNet(), (images, torch.randn_like(images)), F.mse_loss
