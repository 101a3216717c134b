"""Llama: a decoder with rotary positions, RMS norms and gated layers.

Sources: Touvron et al., "Llama 2", 2023, and Grattafiori et al., "The Llama
3 Herd of Models", 2024 (table 3), for the sizes; the released configs for
vocabularies and bases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.examples import example_tokens
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import (DecoderLayer, Embedding, GatedMlp,
                                      Linear, RotaryScaling, Rotation,
                                      rotation)
from scaletorch.models.losses import next_token
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["Llama", "LlamaConfig", "LlamaLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The size of a Llama.

    Parameters
    ----------
    vocabulary_size, width, depth, heads : int
    kv_heads : int
        Heads of keys and values.
    hidden_width : int
        Between the gated layer's products.
    context : int
        Of the example inputs, in tokens; nothing is as long as it.
    head_dim : int, optional
        ``width // heads`` if left out.
    rotary_theta : float
    rotary_scaling : RotaryScaling, optional
    norm_epsilon : float
    tied : bool
        Whether the head is the embedding.
    """

    vocabulary_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden_width: int
    context: int
    head_dim: int | None = None
    rotary_theta: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    norm_epsilon: float = 1e-5
    tied: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "vocabulary_size", "width", "depth", "heads",
                       "kv_heads", "hidden_width", "context")
        check_divides(self, "kv_heads", "heads")
        if self.head_dim is None:
            check_divides(self, "heads", "width")
        if self.rotary_dim % 2:
            raise ValueError(f"{type(self).__name__}: a head of "
                             f"{self.rotary_dim} can not be rotated; its "
                             "size must be even")

    @property
    def rotary_dim(self) -> int:
        """The size of one head."""
        return self.head_dim or self.width // self.heads

    @property
    def head_norm(self) -> bool:
        """Whether queries and keys are normalised."""
        return False

    def hugging_face(self) -> Names:
        """The names of ``LlamaForCausalLM`` and ``Qwen3ForCausalLM``."""
        layer, theirs = "layers.*.", "model.layers.*."
        norms = [
            Pair.of(f"{theirs}self_attn.{name[0]}_norm",
                    f"{layer}attention.{name}_norm")
            for name in ("query", "key") if self.head_norm
        ]
        head = [] if self.tied else [Pair.of("lm_head", "head")]
        return Names(
            prefix="model.",
            ignored=("model.layers.*.self_attn.rotary_emb.inv_freq",
                     *(["lm_head.weight"] if self.tied else [])),
            pairs=(
                Pair.of("model.embed_tokens", "embedding"),
                *(Pair.of(f"{theirs}self_attn.{name[0]}_proj",
                          f"{layer}attention.{name}")
                  for name in ("query", "key", "value", "output")),
                *norms,
                *(Pair.of(f"{theirs}mlp.{name}_proj", f"{layer}mlp.{name}")
                  for name in ("gate", "up", "down")),
                Pair.of(f"{theirs}input_layernorm", f"{layer}attention_norm"),
                Pair.of(f"{theirs}post_attention_layernorm",
                        f"{layer}mlp_norm"),
                Pair.of("model.norm", "norm"),
                *head,
            ))


class LlamaLayer(DecoderLayer):
    """Attention and a gated layer, each after a norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.mlp = GatedMlp(config.width, config.hidden_width)

    def forward(self,
                x: torch.Tensor,
                rotation: Rotation,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.attended(x, rotation, mask)
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """The language model."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(
            LlamaLayer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = None if config.tied else Linear(config.width,
                                                    config.vocabulary_size)

    def forward(self,
                tokens: torch.Tensor,
                labels: torch.Tensor | None = None,
                position_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> Output:
        """Logits of the next tokens, or their loss.

        Parameters
        ----------
        tokens : Tensor
            Of shape (batch, sequence).
        labels : Tensor, optional
            Of the same shape, as a rule the tokens themselves: they are
            shifted here. -100 is left out.
        position_ids : Tensor, optional
            Of the same shape, where several documents lie in a sequence.
        attention_mask : Tensor, optional
            Of shape (batch, 1, sequence, sequence), True where a token may
            look; left out: at itself and all before it.
        """
        x = self.embedding(tokens)
        turn = rotation(tokens.shape[1],
                        self.config.rotary_dim,
                        theta=self.config.rotary_theta,
                        scaling=self.config.rotary_scaling,
                        like=x,
                        places=position_ids)
        for layer in self.layers:
            x = layer(x, turn, attention_mask)
        x = self.norm(x)
        logits = F.linear(x, self.embedding.weight) if self.head is None \
            else self.head(x)
        return next_token(logits, labels)

    def example_inputs(
            self,
            batch_size: int = 8,
            sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and labels, of the config's context if not said."""
        shape = (batch_size, sequence_length or self.config.context)
        return example_tokens(self, shape, self.config.vocabulary_size)


def _llama2(width: int, depth: int, heads: int, kv_heads: int,
            hidden_width: int) -> LlamaConfig:
    return LlamaConfig(vocabulary_size=32_000,
                       width=width,
                       depth=depth,
                       heads=heads,
                       kv_heads=kv_heads,
                       hidden_width=hidden_width,
                       context=4096)


def _llama3(width: int, depth: int, heads: int,
            hidden_width: int) -> LlamaConfig:
    return LlamaConfig(vocabulary_size=128_256,
                       width=width,
                       depth=depth,
                       heads=heads,
                       kv_heads=8,
                       hidden_width=hidden_width,
                       context=8192,
                       rotary_theta=500_000.0)


register(
    Llama, {
        "llama2-7b": _llama2(4096, 32, 32, 32, 11_008),
        "llama2-13b": _llama2(5120, 40, 40, 40, 13_824),
        "llama2-70b": _llama2(8192, 80, 64, 8, 28_672),
        "llama3-8b": _llama3(4096, 32, 32, 14_336),
        "llama3-70b": _llama3(8192, 80, 64, 28_672),
        "llama3-405b": _llama3(16_384, 126, 128, 53_248),
    })
