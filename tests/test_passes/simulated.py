"""Values spread over simulated ranks as a layout says, and put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh

from passes.collectives import AxisRef
from planner.ir.layout import Layout, P, Placement, R
from planner.ir.mesh import MeshSpec
from planner.rules.parts import joined, split
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.ranks import run_ranks

__all__ = ["gathered", "gradient_layout", "on_mesh", "same", "spread"]

Result = TypeVar("Result")


def on_mesh(mesh: MeshSpec, function: Callable[[int, Groups],
                                               Result]) -> list[Result]:
    """Run ``function(rank, groups)`` on every rank."""

    def work(rank: int) -> Result:
        device_mesh = init_device_mesh("cpu",
                                       mesh.sizes,
                                       mesh_dim_names=mesh.names)
        found = [device_mesh.get_group(n) for n in mesh.names]
        place = mesh.coordinate(rank)
        axes = [
            AxisRef(name=g.group_name, size=s, coordinate=c)
            for g, s, c in zip(found, mesh.sizes, place, strict=True)
        ]
        return function(rank, Groups.of(mesh.names, axes, found))

    return run_ranks(mesh.world_size, work)


def spread(value: torch.Tensor, layout: Layout,
           mesh: MeshSpec) -> list[torch.Tensor]:
    """Each rank's part of a value; partial parts are made up of noise."""
    parts = [value]
    for placement, size in zip(layout, mesh.sizes, strict=True):
        parts = [
            part for whole in parts for part in _cut(whole, placement, size)
        ]
    return [part.clone() for part in parts]


def gathered(parts: Sequence[torch.Tensor], layout: Layout,
             mesh: MeshSpec) -> torch.Tensor:
    """The value of which all ranks' parts are given; copies must agree."""
    found = list(parts)
    for placement, size in reversed(list(zip(layout, mesh.sizes,
                                             strict=True))):
        found = [
            _joined(found[i:i + size], placement)
            for i in range(0, len(found), size)
        ]
    return found[0]


def gradient_layout(layout: Layout) -> Layout:
    """How the gradient of something in `layout` lies."""
    return tuple({"V": P, "P": R}.get(p.kind, p) for p in layout)


def same(one: torch.Tensor,
         other: torch.Tensor,
         tolerance: float = 1e-9) -> bool:
    """Equal but for rounding, in dtype and shape as well."""
    return one.dtype == other.dtype and one.shape == other.shape and (
        torch.allclose(one.double(),
                       other.double(),
                       rtol=tolerance,
                       atol=tolerance,
                       equal_nan=True))


def _cut(value: torch.Tensor, placement: Placement,
         size: int) -> list[torch.Tensor]:
    if placement.is_shard:
        return split(value, (placement, ), (size, ), torch.Generator())
    if placement.is_replicated:
        return [value] * size
    noise = [torch.full_like(value, 3 * i + 1) for i in range(1, size)]
    if placement.reduce == "sum":
        return [value - sum(noise), *noise]
    lesser = [value - n for n in noise]
    return [value, *lesser] if placement.reduce == "max" else [
        value, *(value + n for n in noise)
    ]


def _joined(parts: Sequence[torch.Tensor],
            placement: Placement) -> torch.Tensor:
    if placement.is_shard:
        return joined(parts, placement)
    if placement.is_replicated:
        for part in parts[1:]:
            assert same(parts[0], part), "copies differ"
        return parts[0]
    stacked = torch.stack(list(parts))
    if placement.reduce == "sum":
        return stacked.sum(0).to(parts[0].dtype)
    return stacked.amax(0) if placement.reduce == "max" else stacked.amin(0)
