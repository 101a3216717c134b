"""Parameters and buffers at rest: DTensors under the original names."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout

__all__ = ["from_local", "mesh_device", "mesh_rank", "shard_state"]


def mesh_rank(mesh: DeviceMesh) -> int:
    """This rank's row-major position in the mesh.

    Raises
    ------
    ValueError
        When this process is not part of the mesh.
    """
    place = mesh.get_coordinate()
    if place is None:
        raise ValueError(f"rank {dist.get_rank()} is not in the mesh "
                         f"{mesh.mesh.tolist()}")
    rank = 0
    for coordinate, size in zip(place, mesh.mesh.shape, strict=True):
        rank = rank * size + coordinate
    return rank


def mesh_device(mesh: DeviceMesh) -> torch.device:
    """The device that this process computes on."""
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    module = torch.get_device_module(mesh.device_type)
    return torch.device(mesh.device_type, module.current_device())


def from_local(local: torch.Tensor, like: DTensor) -> DTensor:
    """A DTensor of this rank's part, laid out as another DTensor."""
    return DTensor.from_local(local, like.device_mesh, like.placements,
                              run_check=False, shape=like.shape,
                              stride=like.stride())


def shard_state(target: nn.Module, model: nn.Module, mesh: DeviceMesh,
                layout: ProgramLayout) -> None:
    """Register the model's parameters and buffers, sharded, in `target`.

    Values come from the mesh's first rank. Tied parameters stay tied,
    parameters on meta are initialised by their modules, one module at a
    time, so that no rank ever holds the whole model.
    """
    _copy_tree(target, model)
    device = mesh_device(mesh)
    made: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in made:
            at_rest = layout.at_rest.get(f"param:{name}")
            made[id(parameter)] = _shard(parameter, mesh, at_rest, device)
        owner, _, leaf = name.rpartition(".")
        target.get_submodule(owner).register_parameter(
            leaf, made[id(parameter)])
    _copy_buffers(target, model, mesh, device)


def _copy_tree(target: nn.Module, model: nn.Module) -> None:
    """Empty modules with the model's nesting, to hold the names."""
    for name, _ in model.named_modules(remove_duplicate=False):
        if not name:
            continue
        owner, _, leaf = name.rpartition(".")
        parent = target.get_submodule(owner)
        if leaf not in parent._modules:
            parent.add_module(leaf, nn.Module())


def _shard(parameter: nn.Parameter, mesh: DeviceMesh,
           at_rest: Layout | None, device: torch.device) -> nn.Parameter:
    placements = [p.value for p in at_rest] if at_rest else None
    with torch.no_grad():
        # A copy: a broadcast would write into the caller's parameter.
        data = parameter.detach().to(device, copy=True)
        sharded = distribute_tensor(data, mesh, placements)
    return nn.Parameter(sharded, requires_grad=parameter.requires_grad)


def _copy_buffers(target: nn.Module, model: nn.Module, mesh: DeviceMesh,
                  device: torch.device) -> None:
    made: dict[int, torch.Tensor] = {}
    for owner, module in model.named_modules(remove_duplicate=False):
        for leaf, buffer in module._buffers.items():
            if buffer is None:
                continue
            if id(buffer) not in made:
                whole = distribute_tensor(
                    buffer.detach().to(device, copy=True), mesh)
                made[id(buffer)] = whole.to_local().clone()
            persistent = leaf not in module._non_persistent_buffers_set
            target.get_submodule(owner).register_buffer(
                leaf, made[id(buffer)], persistent=persistent)
