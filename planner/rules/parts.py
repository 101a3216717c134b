"""What ranks hold of a tensor: taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from planner.ir.layout import Placement

__all__ = ["difference", "split"]

Tensors = Sequence[torch.Tensor]


def split(value: torch.Tensor, placement: Placement, size: int,
          generator: torch.Generator) -> list[torch.Tensor]:
    """Every rank's part of a value; summands are random.

    Raises
    ------
    ValueError
        When no parts combine by the placement's reduction.
    """
    if placement.is_shard:
        return [
            c.contiguous() for c in value.tensor_split(size, dim=placement.dim)
        ]
    if placement.is_replicated:
        return [value] * size
    if placement.reduce != "sum":
        raise ValueError(f"an input can't be made {placement}")
    noise = [
        torch.randn(value.shape, dtype=torch.float64,
                    generator=generator).mul_(3).to(value.dtype)
        for _ in range(size - 1)
    ]
    return [value - sum(noise), *noise]


def difference(parts: Tensors, whole: torch.Tensor, placement: Placement,
               tolerance: float) -> str | None:
    """Say how parts in a layout differ from the whole; None if they don't."""
    if placement.is_replicated:
        texts = (_unequal(part, whole, tolerance) for part in parts)
        return next(filter(None, texts), None)
    shapes = {tuple(p.shape) for p in parts}
    if len(shapes) > 1:
        return f"parts of different shapes {sorted(shapes)}"
    try:
        joined = _join(parts, placement)
    except (IndexError, RuntimeError) as error:
        return f"parts of shape {shapes.pop()} can't be joined: {error}"
    return _unequal(joined, whole, tolerance)


def _join(parts: Tensors, placement: Placement) -> torch.Tensor:
    if placement.is_shard:
        return torch.cat(list(parts), placement.dim)
    stacked = torch.stack(list(parts))
    if placement.reduce == "sum":
        return stacked.sum(0)
    return stacked.amax(0) if placement.reduce == "max" else stacked.amin(0)


def _unequal(found: torch.Tensor, expected: torch.Tensor,
             tolerance: float) -> str | None:
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} for {tuple(expected.shape)}"
    if torch.allclose(found.to(torch.complex128),
                      expected.to(torch.complex128),
                      rtol=tolerance,
                      atol=tolerance,
                      equal_nan=True):
        return None
    return f"{found.flatten()[:4]} for {expected.flatten()[:4]}"
