"""What ranks hold of a tensor: taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from planner.ir.layout import Placement

__all__ = ["difference", "joined", "split"]

Tensors = Sequence[torch.Tensor]


def split(value: torch.Tensor, layout: Sequence[Placement],
          sizes: Sequence[int],
          generator: torch.Generator) -> list[torch.Tensor]:
    """Every rank's part of a value.

    Parameters
    ----------
    value : Tensor
        The whole.
    layout : sequence of Placement
        One for each axis.
    sizes : sequence of int
        Of the axes.
    generator : torch.Generator
        Of the random summands of partial values.

    Returns
    -------
    list of Tensor
        Ranks in row-major order.

    Raises
    ------
    ValueError
        When no parts combine by a placement's reduction.
    """
    parts = [value]
    for placement, size in zip(layout, sizes, strict=True):
        parts = [
            p for part in parts
            for p in _split(part, placement, size, generator)
        ]
    return parts


def _split(value: torch.Tensor, placement: Placement, size: int,
           generator: torch.Generator) -> list[torch.Tensor]:
    if placement.is_shard:
        return [
            torch.cat([
                c.tensor_split(size, dim=placement.dim)[rank]
                for c in _parts(value, placement)
            ], placement.dim) for rank in range(size)
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


def _parts(value: torch.Tensor, placement: Placement) -> Tensors:
    """What the sharded dim is made of."""
    if not placement.parts:
        return (value, )
    unit = value.shape[placement.dim] // sum(placement.parts)
    return value.split([p * unit for p in placement.parts], placement.dim)


def joined(parts: Tensors, placement: Placement) -> torch.Tensor:
    """The tensor of which all ranks' shards are given."""
    of_parts = zip(*(_parts(p, placement) for p in parts), strict=True)
    return torch.cat([c for part in of_parts for c in part], placement.dim)


def difference(parts: Tensors, whole: torch.Tensor,
               layout: Sequence[Placement], sizes: Sequence[int],
               tolerance: float) -> str | None:
    """How parts in a layout differ from the whole, in words.

    Parameters
    ----------
    parts : sequence of Tensor
        Of all ranks, in row-major order.
    whole : Tensor
    layout : sequence of Placement
        One for each axis.
    sizes : sequence of int
        Of the axes.
    tolerance : float
        Relative and absolute, as of ``torch.allclose``.

    Returns
    -------
    str or None
        None if they don't differ.
    """
    shapes = {tuple(p.shape) for p in parts}
    if len(shapes) > 1:
        return f"parts of different shapes {sorted(shapes)}"
    joined = list(parts)
    for placement, size in reversed(list(zip(layout, sizes, strict=True))):
        groups = [joined[i:i + size] for i in range(0, len(joined), size)]
        try:
            joined = [_join(group, placement) for group in groups]
        except (IndexError, RuntimeError) as error:
            return (f"parts of shape {shapes.pop()} can't be joined: "
                    f"{error}")
        if placement.is_replicated:
            for group in groups:
                for part in group:
                    text = _unequal(part, group[0], tolerance)
                    if text:
                        return f"ranks differ: {text}"
    return _unequal(joined[0], whole, tolerance)


def _join(parts: Tensors, placement: Placement) -> torch.Tensor:
    if placement.is_replicated:
        return parts[0]
    if placement.is_shard:
        return joined(parts, placement)
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
