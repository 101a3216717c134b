"""Attention whose keys and values come out of a small vector per token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_positive
from scaletorch.models.layers.linear import Linear
from scaletorch.models.layers.rotary import Rotation, rotated

__all__ = ["LatentAttention", "LatentConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """The sizes of latent attention.

    Parameters
    ----------
    width : int
        Of what a token's keys and values are made of.
    query_width : int, optional
        The same for queries; None: they are made of the token itself.
    plain_dim, rotary_dim, value_dim : int
        Of a head: the parts of queries and keys that positions leave alone
        and that they turn (all heads share the key's), and its value.
    """

    width: int
    query_width: int | None = None
    plain_dim: int
    rotary_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        check_positive(self, "width", "plain_dim", "rotary_dim", "value_dim")
        if self.rotary_dim % 2:
            raise ValueError(f"LatentConfig.rotary_dim = {self.rotary_dim} "
                             "can not be rotated; it must be even")


class LatentAttention(nn.Module):
    """Causal attention of many heads over one small vector per token.

    Source: DeepSeek-AI, "DeepSeek-V2", 2024 (multi-head latent attention).
    The projections out of the small vectors shard by heads.

    Parameters
    ----------
    width, heads : int
    config : LatentConfig
    norm : callable
        From a width to a norm.
    scale : float
        By which products are multiplied, besides the root of a head's size.
    """

    def __init__(self,
                 width: int,
                 heads: int,
                 config: LatentConfig,
                 *,
                 norm: Callable[[int], nn.Module],
                 scale: float = 1.0) -> None:
        super().__init__()
        self.heads = heads
        self.config = config
        head_dim = config.plain_dim + config.rotary_dim
        self.scale = scale * head_dim**-0.5
        if config.query_width is None:
            self.query = Linear(width, heads * head_dim)
        else:
            self.query_down = Linear(width, config.query_width)
            self.query_norm = norm(config.query_width)
            self.query_up = Linear(config.query_width, heads * head_dim)
        self.down = Linear(width, config.width + config.rotary_dim)
        self.norm = norm(config.width)
        self.up = Linear(config.width,
                         heads * (config.plain_dim + config.value_dim))
        self.output = Linear(heads * config.value_dim, width)

    def forward(self,
                x: torch.Tensor,
                *,
                rotation: Rotation,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend within `x` of shape (batch, sequence, width).

        `rotation` is of ``config.rotary_dim``; a `mask` says what a place
        sees, instead of all that is before it.
        """
        config = self.config
        latent, turned = self.down(x).split([config.width, config.rotary_dim],
                                            -1)
        plain, value = self._heads(self.up(self.norm(latent))).split(
            [config.plain_dim, config.value_dim], -1)
        turned = _rotated(turned.unsqueeze(1), rotation)
        key = torch.cat([plain, turned.expand(-1, self.heads, -1, -1)], -1)
        plain, turned = self._heads(self._query(x)).split(
            [config.plain_dim, config.rotary_dim], -1)
        query = torch.cat([plain, _rotated(turned, rotation)], -1)
        found = F.scaled_dot_product_attention(query,
                                               key,
                                               value,
                                               attn_mask=mask,
                                               is_causal=mask is None,
                                               scale=self.scale)
        return self.output(found.transpose(1, 2).flatten(2))

    def _query(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.query_width is None:
            return self.query(x)
        return self.query_up(self.query_norm(self.query_down(x)))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _rotated(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Neighbours are the two coordinates, as in DeepSeek's checkpoints."""
    return rotated(
        x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2), rotation)
