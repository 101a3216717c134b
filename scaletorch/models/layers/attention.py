"""Attention of many heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.layers.linear import Linear
from scaletorch.models.layers.rotary import Rotation, rotated

__all__ = ["Attention", "Rotation"]


class Attention(nn.Module):
    """Scaled dot-product attention between four projections.

    Query, key and value are separate projections, so that each shards by
    its heads.

    Parameters
    ----------
    width : int
    heads : int
    kv_heads : int, optional
        Of keys and values, each shared by as many query heads; as many as
        `heads` if left out.
    head_dim : int, optional
        ``width // heads`` if left out.
    bias, output_bias : bool
        Of the projections of query, key and value, and of the output.
    causal : bool
        Each place sees itself and those before it, unless a mask says what
        it sees.
    scale : float, optional
        By which products are multiplied; ``head_dim**-0.5`` if left out.
    norm : callable, optional
        From a width to the norm of a query head and of a key head.
    std, output_std : float
        Of the initial weights.
    """

    def __init__(self,
                 width: int,
                 heads: int,
                 *,
                 kv_heads: int | None = None,
                 head_dim: int | None = None,
                 bias: bool = False,
                 output_bias: bool = False,
                 causal: bool = False,
                 scale: float | None = None,
                 norm: Callable[[int], nn.Module] | None = None,
                 std: float = 0.02,
                 output_std: float = 0.02) -> None:
        super().__init__()
        self.head_dim = head_dim or width // heads
        kv_heads = kv_heads or heads
        self.grouped = kv_heads != heads
        self.causal = causal
        self.scale = scale
        inner, kv_inner = heads * self.head_dim, kv_heads * self.head_dim
        self.query = Linear(width, inner, bias=bias, std=std)
        self.key = Linear(width, kv_inner, bias=bias, std=std)
        self.value = Linear(width, kv_inner, bias=bias, std=std)
        self.output = Linear(inner, width, bias=output_bias, std=output_std)
        self.query_norm = norm(self.head_dim) if norm else None
        self.key_norm = norm(self.head_dim) if norm else None

    def forward(self,
                x: torch.Tensor,
                *,
                source: torch.Tensor | None = None,
                rotation: Rotation | None = None,
                mask: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from `x` to `source`, which is `x` if left out.

        Parameters
        ----------
        x, source : Tensor
            Of shape (batch, sequence, width).
        rotation : tuple of Tensor, optional
            Turns queries and keys.
        mask : Tensor, optional
            That broadcasts to (batch, head, sequence, source sequence):
            true where a place is seen, or a number to add to its product.
        """
        source = x if source is None else source
        query, key = self._heads(self.query(x)), self._heads(self.key(source))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        found = F.scaled_dot_product_attention(query,
                                               key,
                                               self._heads(self.value(source)),
                                               attn_mask=mask,
                                               is_causal=self.causal
                                               and mask is None,
                                               scale=self.scale,
                                               enable_gqa=self.grouped)
        return self.output(found.transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
