"""GPT-2: a decoder with learned positions and layer norms.

Sources: Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019 (table 2), and Brown et al., "Language Models are Few-Shot
Learners", 2020 (table 2.1), for GPT-3; every other layer of GPT-3 attends
sparsely, which is not done here and has no parameters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import (check_context, check_divides,
                                      check_positive)
from scaletorch.models.examples import example_tokens
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import Attention, Embedding, Mlp
from scaletorch.models.losses import next_token
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["GPT2", "GPT2Config"]

_gelu = functools.partial(F.gelu, approximate="tanh")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPT2Config:
    """The size of a GPT-2; there is no dropout.

    Parameters
    ----------
    width, depth, heads : int
    vocabulary_size : int
    context : int
        The longest sequence, in tokens.
    norm_epsilon : float
    """

    width: int
    depth: int
    heads: int
    vocabulary_size: int = 50_257
    context: int = 1024
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "heads", "vocabulary_size",
                       "context")
        check_divides(self, "heads", "width")

    def hugging_face(self) -> Names:
        """The names of ``GPT2LMHeadModel``, whose products are transposed
        and whose query, key and value are one."""
        layer, theirs = "layers.*.", "transformer.h.*."
        parts = tuple(f"{layer}attention.{n}"
                      for n in ("query", "key", "value"))
        return Names(prefix="transformer.",
                     ignored=("lm_head.weight", f"{theirs}attn.bias",
                              f"{theirs}attn.masked_bias"),
                     pairs=(
                         Pair.of("transformer.wte", "embedding"),
                         Pair.of("transformer.wpe", "positions"),
                         Pair.of(f"{theirs}ln_1", f"{layer}attention_norm"),
                         Pair(theirs=(f"{theirs}attn.c_attn", ),
                              ours=parts,
                              transposed=True),
                         Pair(theirs=(f"{theirs}attn.c_proj", ),
                              ours=(f"{layer}attention.output", ),
                              transposed=True),
                         Pair.of(f"{theirs}ln_2", f"{layer}mlp_norm"),
                         Pair(theirs=(f"{theirs}mlp.c_fc", ),
                              ours=(f"{layer}mlp.up", ),
                              transposed=True),
                         Pair(theirs=(f"{theirs}mlp.c_proj", ),
                              ours=(f"{layer}mlp.down", ),
                              transposed=True),
                         Pair.of("transformer.ln_f", "norm"),
                     ))


class GPT2Layer(nn.Module):
    """Attention and a feed-forward layer, each after a norm."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        # Two residual sums a layer: their variance does not grow with depth.
        residual_std = 0.02 * (2 * config.depth)**-0.5
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.attention = Attention(width,
                                   config.heads,
                                   bias=True,
                                   output_bias=True,
                                   causal=True,
                                   output_std=residual_std)
        self.mlp_norm = nn.LayerNorm(width, epsilon)
        self.mlp = Mlp(width,
                       4 * width,
                       activation=_gelu,
                       down_std=residual_std)

    def forward(self,
                x: torch.Tensor,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.mlp(self.mlp_norm(x))


class GPT2(nn.Module):
    """The language model; its head is its embedding."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.positions = Embedding(config.context, config.width, std=0.01)
        self.layers = nn.ModuleList(
            GPT2Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)

    def forward(self,
                tokens: torch.Tensor,
                labels: torch.Tensor | None = None,
                position_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> Output:
        """Logits of the next tokens, or their loss.

        Parameters
        ----------
        tokens : Tensor
            Of shape (batch, sequence), no longer than the context.
        labels : Tensor, optional
            Of the same shape, as a rule the tokens themselves: they are
            shifted here. -100 is left out.
        position_ids : Tensor, optional
            Of the same shape, where several documents lie in a sequence.
        attention_mask : Tensor, optional
            Of shape (batch, 1, sequence, sequence), True where a token may
            look; left out: at itself and all before it.
        """
        check_context(self.config, tokens)
        places = (torch.arange(tokens.shape[1], device=tokens.device)
                  if position_ids is None else position_ids)
        x = self.embedding(tokens) + self.positions(places)
        for layer in self.layers:
            x = layer(x, attention_mask)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return next_token(logits, labels)

    def example_inputs(
            self,
            batch_size: int = 8,
            sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and labels, of the config's context if not said."""
        shape = (batch_size, sequence_length or self.config.context)
        return example_tokens(self, shape, self.config.vocabulary_size)


register(
    GPT2, {
        "gpt2": GPT2Config(width=768, depth=12, heads=12),
        "gpt2-medium": GPT2Config(width=1024, depth=24, heads=16),
        "gpt2-large": GPT2Config(width=1280, depth=36, heads=20),
        "gpt2-xl": GPT2Config(width=1600, depth=48, heads=25),
        "gpt3-175b": GPT2Config(width=12_288, depth=96, heads=96,
                                context=2048),
    })
