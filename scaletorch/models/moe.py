"""Mixtures of experts: a decoder whose layers are chosen token by token.

Sources: Jiang et al., "Mixtral of Experts", 2024; Dai et al., "DeepSeekMoE",
2024, for shared experts; Yang et al., "Qwen3", 2025; the released configs
for the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.examples import example_tokens
from scaletorch.models.layers import (DecoderLayer, Embedding, GatedMlp,
                                      Linear, Rotation, rotation)
from scaletorch.models.losses import next_token
from scaletorch.models.moe_layers import Mixture, RouterConfig
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["Moe", "MoeConfig", "MoeLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """The size of a mixture of experts.

    Parameters
    ----------
    vocabulary_size, width, depth, heads, kv_heads, head_dim : int
    hidden_width : int
        Between an expert's products.
    context : int
        Of the example inputs, in tokens.
    router : RouterConfig
    shared : int
        Experts that all tokens go through.
    dense_depth, dense_width : int
        How many of the first layers have no experts, and between their
        products.
    head_norm : bool
        Whether queries and keys are normalised.
    rotary_theta : float
    norm_epsilon : float
    """

    vocabulary_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_width: int
    context: int
    router: RouterConfig
    shared: int = 0
    dense_depth: int = 0
    dense_width: int = 0
    head_norm: bool = False
    rotary_theta: float = 1_000_000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, "vocabulary_size", "width", "depth", "heads",
                       "kv_heads", "head_dim", "hidden_width", "context")
        check_divides(self, "kv_heads", "heads")
        if self.dense_depth and self.dense_width < 1:
            raise ValueError("MoeConfig.dense_depth layers have no experts; "
                             "say their dense_width")


class MoeLayer(DecoderLayer):
    """Attention, then experts (or one dense layer), each on what is added.
    """

    def __init__(self, config: MoeConfig, *, dense: bool) -> None:
        super().__init__(config)
        self.dense = GatedMlp(config.width,
                              config.dense_width) if dense else None
        self.mixture = None if dense else Mixture(config.width,
                                                  config.hidden_width,
                                                  config.router,
                                                  shared=config.shared)

    def forward(self, x: torch.Tensor,
                turn: Rotation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The next layer's input, and this one's penalty, if it has one."""
        x = self.attended(x, turn)
        if self.mixture is None:
            assert self.dense is not None
            return x + self.dense(self.mlp_norm(x)), None
        out, penalty = self.mixture(self.mlp_norm(x))
        return x + out, penalty


class Moe(nn.Module):
    """The language model; its loss contains its routers' losses."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(
            MoeLayer(config, dense=i < config.dense_depth)
            for i in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = Linear(config.width, config.vocabulary_size)

    def forward(self,
                tokens: torch.Tensor,
                labels: torch.Tensor | None = None) -> Output:
        """Logits of the next tokens, or their loss.

        Parameters
        ----------
        tokens : Tensor
            Of shape (batch, sequence).
        labels : Tensor, optional
            Of the same shape, as a rule the tokens themselves: they are
            shifted here. -100 is left out.
        """
        x = self.embedding(tokens)
        turn = rotation(tokens.shape[1],
                        self.config.head_dim,
                        theta=self.config.rotary_theta,
                        scaling=None,
                        like=x)
        penalties = []
        for layer in self.layers:
            x, penalty = layer(x, turn)
            penalties.append(penalty)
        found = next_token(self.head(self.norm(x)), labels)
        if found.loss is None:
            return found
        return Output(
            loss=sum((p
                      for p in penalties if p is not None), start=found.loss))

    def example_inputs(
            self,
            batch_size: int = 8,
            sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and labels, of the config's context if not said."""
        shape = (batch_size, sequence_length or self.config.context)
        return example_tokens(self, shape, self.config.vocabulary_size)


def _mixtral(width: int, depth: int, heads: int,
             hidden_width: int) -> MoeConfig:
    return MoeConfig(vocabulary_size=32_000,
                     width=width,
                     depth=depth,
                     heads=heads,
                     kv_heads=8,
                     head_dim=128,
                     hidden_width=hidden_width,
                     context=4096,
                     router=RouterConfig(experts=8, active=2))


register(
    Moe, {
        "mixtral-8x7b":
        _mixtral(4096, 32, 32, 14_336),
        "mixtral-8x22b":
        _mixtral(6144, 56, 48, 16_384),
        "qwen3-30b-a3b":
        MoeConfig(vocabulary_size=151_936,
                  width=2048,
                  depth=48,
                  heads=32,
                  kv_heads=4,
                  head_dim=128,
                  hidden_width=768,
                  context=4096,
                  router=RouterConfig(
                      experts=128, active=8, balance_weight=0.001),
                  head_norm=True,
                  norm_epsilon=1e-6),
    })
