"""From the parts of micro-batches and stages to what the caller gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from passes.collectives import AxisRef, apply_move
from planner.ir.convert import conversion_steps
from planner.ir.layout import Layout, Placement, R

__all__ = ["cut", "joined", "loss_tangent", "part_of", "whole"]


def part_of(tensor: torch.Tensor, placement: Placement, number: int,
            count: int) -> torch.Tensor:
    """One micro-batch's part of a value; all of it where it is whole."""
    if not placement.is_shard:
        return tensor
    size = tensor.shape[placement.dim] // count
    return tensor.narrow(placement.dim, number * size, size)


def cut(tensor: torch.Tensor, layout: Layout,
        axes: Sequence[AxisRef]) -> torch.Tensor:
    """This rank's part of a value that it holds whole."""
    for placement, axis in zip(layout, axes, strict=True):
        tensor = part_of(tensor, placement, axis.coordinate, axis.size)
    return tensor


def joined(parts: Sequence[torch.Tensor],
           placement: Placement) -> torch.Tensor:
    """A value of the whole batch from those of its micro-batches."""
    if placement.is_shard:
        return torch.cat(list(parts), placement.dim)
    if placement.is_partial and placement.reduce != "sum":
        return getattr(torch.stack(list(parts)), f"a{placement.reduce}")(0)
    if placement.is_partial:
        # Narrow sums are kept in float32, as within one batch.
        narrow = parts[0].dtype in (torch.bfloat16, torch.float16)
        total = torch.stack([p.float() if narrow else p for p in parts]).sum(0)
        return total.to(parts[0].dtype)
    return parts[-1]


def whole(tensor: torch.Tensor, layout: Layout,
          axes: Sequence[AxisRef]) -> torch.Tensor:
    """A value on every rank of a stage."""
    steps = conversion_steps(layout, (R, ) * len(layout), differentiable=False)
    assert steps is not None, layout
    for step in steps:
        tensor = apply_move(tensor, step.forward, axes[step.axis])
    return tensor


def loss_tangent(layout: Layout, axes: Sequence[AxisRef], *,
                 dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The gradient of a micro-batch's loss, as it is held, to be 1 in all.

    Of a value whose gradient is partial (``V``) each rank or micro-batch
    has a share.
    """
    share = 1.0
    for placement, axis in zip(layout, axes, strict=True):
        if placement.kind == "V":
            share /= axis.size
    return torch.tensor(share, dtype=dtype, device=device)
