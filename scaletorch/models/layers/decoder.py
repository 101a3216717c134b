"""The first half of a layer in Llama and its kin."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from scaletorch.models.layers.attention import Attention, Rotation

__all__ = ["DecoderConfig", "DecoderLayer"]


class DecoderConfig(Protocol):
    """What such a layer asks of a model's config."""

    @property
    def width(self) -> int:
        """Of the activations between layers."""

    @property
    def heads(self) -> int:
        """Of queries."""

    @property
    def kv_heads(self) -> int:
        """Of keys and values."""

    @property
    def head_dim(self) -> int | None:
        """The size of one; None: as many as make up the width."""

    @property
    def head_norm(self) -> bool:
        """Whether queries and keys are normalised."""

    @property
    def norm_epsilon(self) -> float:
        """Of all norms."""


class DecoderLayer(nn.Module):
    """Causal attention behind a norm, and the norm before what follows.

    Parameters
    ----------
    config : DecoderConfig
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_epsilon = config.norm_epsilon
        self.attention_norm = self._norm(config.width)
        self.attention = self._attention(config)
        self.mlp_norm = self._norm(config.width)

    def _attention(self, config: DecoderConfig) -> nn.Module:
        return Attention(config.width,
                         config.heads,
                         kv_heads=config.kv_heads,
                         head_dim=config.head_dim,
                         causal=True,
                         norm=self._norm if config.head_norm else None)

    def _norm(self, width: int) -> nn.RMSNorm:
        return nn.RMSNorm(width, eps=self.norm_epsilon)

    def attended(self, x: torch.Tensor, turn: Rotation,
                 mask: torch.Tensor | None) -> torch.Tensor:
        """The input with what attention adds to it."""
        return x + self.attention(
            self.attention_norm(x), rotation=turn, mask=mask)
