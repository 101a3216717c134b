"""Batch normalisation whose statistics span several ranks."""

from __future__ import annotations

from typing import Any

import torch

from passes.collectives import AxisRef, convert
from passes.lowerings.registry import Context, register_lowering
from planner.ir.layout import P, R, V

__all__ = ["sync_batch_norm"]

_NARROW = (torch.bfloat16, torch.float16)


@register_lowering("sync_batch_norm")
def sync_batch_norm(context: Context, x: torch.Tensor,
                    weight: torch.Tensor | None, bias: torch.Tensor | None,
                    *rest: Any) -> tuple[torch.Tensor | None, ...]:
    """Training-mode batch norm over the global batch.

    Returns the outputs of ``_native_batch_norm_legit_functional``:
    normalised input, mean, reciprocal deviation, new running mean and new
    running variance; or, without running statistics, the first three, as
    ``_native_batch_norm_legit.no_stats`` does.
    """
    *stats, _, momentum, eps = rest
    wide = x.float() if x.dtype in _NARROW else x
    mean, variance, count = _statistics(context, wide)
    scale = torch.rsqrt(variance + eps)
    # Both enter work that each rank does on its own share, so their
    # gradients are partial there.
    out = (wide - _as_channels(_varying(mean, context), x)) * _as_channels(
        _varying(scale, context), x)
    if weight is not None:
        out = out * _as_channels(weight, x)
    if bias is not None:
        out = out + _as_channels(bias, x)
    outputs = (out.to(x.dtype), mean, scale)
    if not stats:
        return outputs
    unbiased = variance * (count / max(count - 1, 1))
    return (*outputs, _running(stats[0], mean,
                               momentum), _running(stats[1], unbiased,
                                                   momentum))


def _statistics(context: Context,
                x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and variance over all ranks, and of how many numbers.

    In two passes: the difference of two sums of squares would cancel.
    """
    dims = [d for d in range(x.dim()) if d != 1]
    count = x.numel() // x.shape[1]
    for axis in _axes(context):
        count = axis.whole(count)
    mean = _summed(context, x.sum(dims)) / count
    centred = x - _as_channels(_varying(mean, context), x)
    return mean, _summed(context, centred.square().sum(dims)) / count, count


def _axes(context: Context) -> list[AxisRef]:
    """Micro-batches have statistics of their own."""
    return [a for a in context.named("sync_batch_norm") if not a.sequential]


def _summed(context: Context, value: torch.Tensor) -> torch.Tensor:
    for axis in _axes(context):
        value = convert(value, P, R, axis)
    return value


def _varying(value: torch.Tensor, context: Context) -> torch.Tensor:
    for axis in _axes(context):
        value = convert(value, R, V, axis)
    return value


def _as_channels(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return value.view([1, -1] + [1] * (x.dim() - 2))


def _running(old: torch.Tensor | None, new: torch.Tensor,
             momentum: float) -> torch.Tensor | None:
    if old is None:
        return None
    return old * (1 - momentum) + new.detach() * momentum
