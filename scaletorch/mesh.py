"""Device meshes: what the user passes, and where this process stands."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from planner.ir.mesh import MeshSpec

__all__ = ["device_mesh", "mesh_device", "mesh_rank", "reshaped", "spec_of"]


def device_mesh(mesh: DeviceMesh | int) -> tuple[DeviceMesh, bool]:
    """The device mesh, and whether its factorisation is open.

    Raises
    ------
    TypeError
        When `mesh` is neither a mesh nor a number.
    ValueError
        Without a process group, when the number of ranks is not the job's,
        or when this rank is not part of the mesh.
    """
    if not dist.is_initialized():
        raise ValueError(
            "there is no process group: start the program with torchrun and "
            "call torch.distributed.init_process_group first (to plan "
            "without devices use python -m planner.explain)")
    if isinstance(mesh, int) and not isinstance(mesh, bool):
        if mesh != dist.get_world_size():
            raise ValueError(
                f"a mesh of {mesh} ranks was asked for, but the job has "
                f"{dist.get_world_size()}; start torchrun with "
                f"--nproc-per-node {mesh} or pass a DeviceMesh")
        return init_device_mesh(_device_type(), (mesh, )), True
    if not isinstance(mesh, DeviceMesh):
        raise TypeError("mesh must be a DeviceMesh or the number of ranks, "
                        f"got {type(mesh).__name__}")
    mesh_rank(mesh)
    return mesh, mesh.mesh_dim_names is None and mesh.ndim == 1


def _device_type() -> str:
    backend = dist.get_backend()
    if backend in ("gloo", "threaded", "fake"):
        return "cpu"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator is not None else "cpu"


def spec_of(mesh: DeviceMesh) -> MeshSpec:
    """The mesh as the planner knows it."""
    names = mesh.mesh_dim_names or tuple(f"axis{i}" for i in range(mesh.ndim))
    return MeshSpec(tuple(names), tuple(mesh.mesh.shape))


def reshaped(mesh: DeviceMesh, wanted: MeshSpec) -> DeviceMesh:
    """The ranks of a mesh, arranged as a plan wants them."""
    if spec_of(mesh) == wanted and mesh.mesh_dim_names:
        return mesh
    return DeviceMesh(mesh.device_type,
                      mesh.mesh.reshape(wanted.sizes).tolist(),
                      mesh_dim_names=wanted.names)


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
                         f"{mesh.mesh.tolist()}: only ranks of the mesh call "
                         "auto_parallelize")
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
