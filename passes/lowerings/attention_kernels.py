"""Attention of some queries to some keys, with what merging parts needs.

For each kind of device a table of fused kernels, the first that takes the
operands is used; products and a softmax where none does. Every kernel gives
the logarithm of the softmax' normaliser, and its backward takes the one of
the *whole* rows, so that parts over blocks of keys add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["Attended", "Gradients", "Tile", "attend", "attend_backward"]

aten = torch.ops.aten

_HALF = (torch.float16, torch.bfloat16)
_INFINITY = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Queries and keys of one call of a kernel.

    Parameters
    ----------
    query, key, value : Tensor
        (batch, heads, rows, width); as many key heads as query heads.
    mask : Tensor or None
        What is added to the scores, or False where a key is not seen.
    causal : bool
        Whether row i sees keys 0 to i only.
    scale : float
        Of the scores.
    mask_gradient : bool
        Whether the backward is to give the scores' gradient.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    scale: float
    mask_gradient: bool = False

    @property
    def bias(self) -> torch.Tensor | None:
        """The mask as what is added, in the queries' dtype."""
        if self.mask is None or self.mask.dtype != torch.bool:
            return self.mask
        zero = torch.zeros((), dtype=self.query.dtype, device=self.mask.device)
        return torch.where(self.mask, zero, -_INFINITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """The output, its rows' logarithms of normalisers, and what else the
    kernel's backward takes."""

    output: torch.Tensor
    logsumexp: torch.Tensor
    rest: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Of a tile's operands; `scores` only where it was asked for."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scores: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    takes: Callable[[Tile], bool]
    forward: Callable[[Tile], Attended]
    backward: Callable[[Tile, Attended, torch.Tensor], Gradients]


def attend(tile: Tile) -> Attended:
    """Attention over the tile's keys alone.

    The logarithm is -inf in rows that see no key, and their output zero.
    """
    return _kernel(tile).forward(tile)


def attend_backward(tile: Tile, whole: Attended,
                    grad: torch.Tensor) -> Gradients:
    """The tile's share of the gradients.

    Parameters
    ----------
    tile : Tile
    whole : Attended
        Output and logarithms of the rows over all keys.
    grad : Tensor
        Of the whole output.
    """
    if tile.mask is not None:
        # exp(score - inf) is 0: rows that see nothing have no gradient.
        dead = whole.logsumexp == -_INFINITY
        whole = replace(whole,
                        logsumexp=torch.where(dead, _INFINITY,
                                              whole.logsumexp))
    return _kernel(tile).backward(tile, whole, grad)


def _kernel(tile: Tile) -> _Kernel:
    for kernel in _FUSED.get(tile.query.device.type, ()):
        if kernel.takes(tile):
            return kernel
    return _PRODUCTS


def _one_width(tile: Tile) -> bool:
    return tile.query.shape[-1] == tile.value.shape[-1]


def _cpu_takes(tile: Tile) -> bool:
    known = tile.mask is None or tile.mask.dtype in (torch.bool,
                                                     tile.query.dtype)
    return _one_width(tile) and known and not tile.mask_gradient


def _cpu(tile: Tile) -> Attended:
    output, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
        tile.query,
        tile.key,
        tile.value,
        0.0,
        tile.causal,
        attn_mask=_four_dims(tile.bias),
        scale=tile.scale)
    if tile.bias is not None:
        # The kernel says 0 for the logarithm of nothing.
        dead = (tile.bias == -_INFINITY).all(-1)
        logsumexp = torch.where(dead, -_INFINITY, logsumexp)
    return Attended(output=output, logsumexp=logsumexp)


def _cpu_backward(tile: Tile, whole: Attended,
                  grad: torch.Tensor) -> Gradients:
    query, key, value = \
        aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad,
            tile.query,
            tile.key,
            tile.value,
            whole.output,
            whole.logsumexp,
            0.0,
            tile.causal,
            attn_mask=_four_dims(tile.bias),
            scale=tile.scale)
    return Gradients(query=query, key=key, value=value)


def _four_dims(bias: torch.Tensor | None) -> torch.Tensor | None:
    if bias is None:
        return None
    return bias.reshape((1, ) * (4 - bias.dim()) + bias.shape)


def _flash_takes(tile: Tile) -> bool:
    width = tile.query.shape[-1]
    return (tile.query.dtype in _HALF and tile.mask is None
            and _one_width(tile) and width % 8 == 0 and width <= 256)


def _flash(tile: Tile) -> Attended:
    output, logsumexp, *_, _, _, seed, offset, _ = \
        aten._scaled_dot_product_flash_attention(tile.query,
                                                 tile.key,
                                                 tile.value,
                                                 0.0,
                                                 tile.causal,
                                                 scale=tile.scale)
    return Attended(output=output, logsumexp=logsumexp, rest=(seed, offset))


def _flash_backward(tile: Tile, whole: Attended,
                    grad: torch.Tensor) -> Gradients:
    query, key, value = aten._scaled_dot_product_flash_attention_backward(
        grad,
        tile.query,
        tile.key,
        tile.value,
        whole.output,
        whole.logsumexp,
        None,
        None,
        tile.query.shape[-2],
        tile.key.shape[-2],
        0.0,
        tile.causal,
        *whole.rest,
        scale=tile.scale)
    return Gradients(query=query, key=key, value=value)


def _efficient_takes(tile: Tile) -> bool:
    aligned = all(x.shape[-1] % 8 == 0 for x in (tile.query, tile.value))
    return (aligned and tile.mask is None
            and tile.query.dtype in (*_HALF, torch.float32))


def _efficient(tile: Tile) -> Attended:
    output, logsumexp, *rest = aten._scaled_dot_product_efficient_attention(
        tile.query,
        tile.key,
        tile.value,
        None,
        True,
        0.0,
        tile.causal,
        scale=tile.scale)
    # Its rows are padded to the kernel's own tiles.
    rows = tile.query.shape[-2]
    return Attended(output=output,
                    logsumexp=logsumexp.narrow(-1, 0, rows),
                    rest=tuple(rest))


def _efficient_backward(tile: Tile, whole: Attended,
                        grad: torch.Tensor) -> Gradients:
    padding = -tile.query.shape[-2] % 32
    logsumexp = F.pad(whole.logsumexp, (0, padding), value=_INFINITY)
    query, key, value, _ = \
        aten._scaled_dot_product_efficient_attention_backward(
            grad,
            tile.query,
            tile.key,
            tile.value,
            None,
            whole.output,
            logsumexp,
            *whole.rest,
            0.0, [True, True, True, False],
            tile.causal,
            scale=tile.scale)
    return Gradients(query=query, key=key, value=value)


def _products(tile: Tile) -> Attended:
    scores = _scores(tile)
    logsumexp = scores.logsumexp(-1)
    finite = torch.where(logsumexp == -_INFINITY, 0.0, logsumexp)
    weights = (scores - finite.unsqueeze(-1)).exp()
    output = weights @ tile.value.to(weights.dtype)
    return Attended(output=output.to(tile.query.dtype), logsumexp=logsumexp)


def _products_backward(tile: Tile, whole: Attended,
                       grad: torch.Tensor) -> Gradients:
    scores = _scores(tile)
    wide = scores.dtype
    weights = (scores - whole.logsumexp.unsqueeze(-1)).exp()
    grad = grad.to(wide)
    means = (grad * whole.output.to(wide)).sum(-1, keepdim=True)
    change = weights * (grad @ tile.value.to(wide).mT - means)
    return Gradients(
        query=(change @ tile.key.to(wide) * tile.scale).to(tile.query.dtype),
        key=(change.mT @ tile.query.to(wide) * tile.scale).to(tile.key.dtype),
        value=(weights.mT @ grad).to(tile.value.dtype),
        scores=change if tile.mask_gradient else None)


def _scores(tile: Tile) -> torch.Tensor:
    """In float32 at least, as fused kernels have them."""
    wide = torch.float32 if tile.query.dtype in _HALF else tile.query.dtype
    scores = tile.query.to(wide) @ tile.key.to(wide).mT * tile.scale
    bias = tile.bias
    if bias is not None:
        scores = scores + bias
    if tile.causal:
        seen = torch.ones(scores.shape[-2:],
                          dtype=torch.bool,
                          device=scores.device).tril()
        scores = torch.where(seen, scores, -_INFINITY)
    return scores


_PRODUCTS = _Kernel(takes=lambda tile: True,
                    forward=_products,
                    backward=_products_backward)
_FUSED: Mapping[str, tuple[_Kernel, ...]] = MappingProxyType({
    "cpu": (_Kernel(takes=_cpu_takes, forward=_cpu, backward=_cpu_backward), ),
    "cuda": (_Kernel(takes=_flash_takes,
                     forward=_flash,
                     backward=_flash_backward),
             _Kernel(takes=_efficient_takes,
                     forward=_efficient,
                     backward=_efficient_backward)),
})
"""By the device's type; a device that is not listed has products."""
