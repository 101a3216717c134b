"""Convolutions, pooling and resampling: spatial dims stay whole."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import S
from planner.rules.dims import keep
from planner.rules.factors import einsum_options, number, partial, place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["convolution", "grid_sampler", "resample"]

aten = torch.ops.aten

_GROUPS = {
    aten.conv1d.default: 6,
    aten.conv1d.padding: 6,
    aten.conv2d.default: 6,
    aten.conv2d.padding: 6,
    aten.conv3d.default: 6,
    aten.conv3d.padding: 6,
    aten.conv_transpose1d.default: 6,
    aten.conv_transpose2d.input: 6,
    aten.conv_transpose3d.input: 6,
    aten.convolution.default: 8,
}
"""Convolutions, and the position of their number of groups."""


@register(*_GROUPS)
def convolution(call: OpCall) -> Iterable[Option]:
    """By sample, output channel, input channel, or whole groups."""
    weight, bias = call.inputs[1], number(call.arg(2, "bias"))
    if call.inputs[0].ndim != weight.ndim:
        return
    groups = call.arg(_GROUPS[call.target], "groups", 1)
    if groups > 1:
        yield place(call, {0: S(0)}, S(0))
        channels = {0: S(1), 1: S(0), bias: S(0)}
        yield place(call, channels, S(1), units=groups)
        return
    spatial = weight.ndim - 2
    kernel = ("km" if _is_transposed(call) else "mk") + "uvw"[:spatial]
    image = "xyz"[:spatial]
    yield from einsum_options(call,
                              f"bk{image},{kernel}->bm{image}",
                              operands=(0, 1),
                              added={bias: "m"},
                              added_lowering="conv_row_bias",
                              only="bmk")


def _is_transposed(call: OpCall) -> bool:
    if call.target is aten.convolution.default:
        return bool(call.args[6])
    return "transpose" in call.target.name()


_POOLS = {
    aten._adaptive_avg_pool2d.default: 2,
    aten._upsample_bicubic2d_aa.default: 2,
    aten._upsample_bicubic2d_aa.vec: 2,
    aten._upsample_bilinear2d_aa.default: 2,
    aten._upsample_bilinear2d_aa.vec: 2,
    aten._upsample_nearest_exact2d.default: 2,
    aten._upsample_nearest_exact2d.vec: 2,
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool2d_with_indices.default: 2,
    aten.max_pool3d.default: 3,
    aten.upsample_bicubic2d.default: 2,
    aten.upsample_bicubic2d.vec: 2,
    aten.upsample_bilinear2d.default: 2,
    aten.upsample_bilinear2d.vec: 2,
    aten.upsample_linear1d.vec: 1,
    aten.upsample_nearest1d.vec: 1,
    aten.upsample_nearest2d.default: 2,
    aten.upsample_nearest2d.vec: 2,
    aten.upsample_nearest3d.vec: 3,
    aten.upsample_trilinear3d.vec: 3,
}
"""Operators on each channel alone, and their number of spatial dims."""


@register(*_POOLS)
def resample(call: OpCall) -> Iterable[Option]:
    """Samples and channels."""
    yield from keep(call, range(call.inputs[0].ndim - _POOLS[call.target]))
    if "max" not in call.target.name():
        yield partial(call)


@register(aten.pixel_shuffle.default, aten.pixel_unshuffle.default)
def pixel_shuffle(call: OpCall) -> Iterable[Option]:
    """Samples, and channels: their sub-pixels lie side by side."""
    yield from keep(call, range(call.inputs[0].ndim - 2))
    yield partial(call)


@register(aten.grid_sampler.default)
def grid_sampler(call: OpCall) -> Iterable[Option]:
    """Samples, channels, and the places where the image is sampled."""
    yield shard(call, (0, 0), 0)
    yield shard(call, (1, None), 1)
    for dim in range(1, call.inputs[1].ndim - 1):
        yield shard(call, (None, dim), dim + 1)
    yield partial(call, 0)


@register(aten.im2col.default, aten.col2im.default)
def columns(call: OpCall) -> Iterable[Option]:
    """Samples; channels come with their kernel's places behind them."""
    if call.inputs[0].ndim == (4 if call.target is aten.im2col.default else 3):
        yield from keep(call, (0, 1))
    yield partial(call)
