"""Batch normalisation whose statistics span several ranks."""

from __future__ import annotations

import torch

from passes.collectives import convert
from passes.lowerings.registry import Context, register_lowering
from planner.ir.layout import P, R, V

__all__ = ["sync_batch_norm"]


@register_lowering("sync_batch_norm")
def sync_batch_norm(context: Context, x: torch.Tensor,
                    weight: torch.Tensor | None, bias: torch.Tensor | None,
                    running_mean: torch.Tensor | None,
                    running_var: torch.Tensor | None, training: bool,
                    momentum: float,
                    eps: float) -> tuple[torch.Tensor | None, ...]:
    """Training-mode batch norm over the global batch.

    Returns the outputs of ``_native_batch_norm_legit_functional``:
    normalised input, mean, reciprocal deviation, new running mean and new
    running variance.
    """
    del training
    dims = [d for d in range(x.dim()) if d != 1]
    axes = context.named("sync_batch_norm")
    count = x.numel() // x.shape[1]
    total, squares = x.sum(dims), None
    for axis in axes:
        total = convert(total, P, R, axis)
        count *= axis.size
    mean = total / count
    # The mean enters work that each rank does on its own share, so its
    # gradient is partial there.
    local_mean = _varying(mean, context)
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - local_mean.view(shape)
    squares = centred.square().sum(dims)
    for axis in axes:
        squares = convert(squares, P, R, axis)
    variance = squares / count
    scale = torch.rsqrt(variance + eps)
    out = centred * _varying(scale, context).view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return (out, mean, scale, _running(running_mean, mean, momentum),
            _running(running_var, variance * (count / max(count - 1, 1)),
                     momentum))


def _varying(value: torch.Tensor, context: Context) -> torch.Tensor:
    for axis in context.named("sync_batch_norm"):
        value = convert(value, R, V, axis)
    return value


def _running(old: torch.Tensor | None, new: torch.Tensor,
             momentum: float) -> torch.Tensor | None:
    if old is None:
        return None
    return old * (1 - momentum) + new.detach() * momentum
