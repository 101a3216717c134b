"""Parameters and buffers at rest: DTensors under the original names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from planner.ir.layout import Layout
from scaletorch.materialize import initialised
from scaletorch.mesh import mesh_device
from scaletorch.structure import put, slots_of

__all__ = [
    "from_local", "keep_part", "local_slices", "shard_state", "take_whole"
]


def from_local(local: torch.Tensor, like: DTensor) -> DTensor:
    """A DTensor of this rank's part, laid out as another DTensor."""
    # Fused optimizers go through the memory of a parameter and its gradient
    # side by side, whatever their strides. Parameters are contiguous.
    local = local.contiguous()
    # A spec of its own would be hashed anew by every operator on it.
    return DTensor(local, like._spec, requires_grad=False)


def local_slices(shape: Sequence[int], mesh: DeviceMesh,
                 placements: Sequence[Placement]) -> tuple[slice, ...]:
    """Which part of a tensor this rank keeps.

    Parameters
    ----------
    shape : sequence of int
        Of the whole; sharded dims are divided evenly.
    mesh : DeviceMesh
        This rank is in it.
    placements : sequence of Placement
        One for each axis.

    Returns
    -------
    tuple of slice
        One for each dim.
    """
    starts, sizes = [0] * len(shape), list(shape)
    place = mesh.get_coordinate()
    assert place is not None
    for placement, coordinate, count in zip(placements,
                                            place,
                                            mesh.mesh.shape,
                                            strict=True):
        dim = getattr(placement, "dim", None)
        if dim is not None:
            sizes[dim] //= count
            starts[dim] += coordinate * sizes[dim]
    return tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))


def keep_part(whole: torch.Tensor, mesh: DeviceMesh,
              placements: Sequence[Placement]) -> DTensor:
    """This rank's part of a tensor that every rank holds; a copy."""
    part = whole[local_slices(whole.shape, mesh, placements)]
    return DTensor.from_local(
        part.clone(memory_format=torch.contiguous_format),
        mesh,
        placements,
        run_check=False,
        shape=whole.shape,
        stride=torch.empty(whole.shape, device="meta").stride())


def shard_state(structure: nn.Module,
                model: nn.Module,
                mesh: DeviceMesh,
                at_rest: Mapping[str, Layout],
                *,
                seed: int,
                elsewhere: Collection[str] = ()) -> None:
    """Put the model's state, sharded, into its skeleton.

    Values come from the mesh's first rank. Tied parameters stay tied.
    Tensors on meta are initialised one module at a time, on every rank
    alike, so that no rank ever holds the whole model.

    Parameters
    ----------
    structure : nn.Module
        From :func:`scaletorch.structure.skeleton`; changed in place.
    model : nn.Module
        Left as it is.
    mesh : DeviceMesh
    at_rest : mapping of str to Layout
        By global name; replicated where there is none.
    seed : int
        Of the initialisation, the same on all ranks.
    elsewhere : collection of str
        Parameters and buffers that this rank does not hold; they stay on
        meta.
    """
    slots = slots_of(structure)
    absent = {
        id(t)
        for n, t in (*structure.named_parameters(remove_duplicate=False),
                     *structure.named_buffers(remove_duplicate=False))
        if n in elsewhere
    }
    done: dict[int, torch.Tensor] = {}
    virtual: set[int] = set()
    rest = _Rest(structure, mesh, at_rest)
    for shadow, tensor in _pairs(structure, model):
        if tensor.is_meta:
            virtual.add(id(shadow))
        elif id(shadow) not in done and id(shadow) not in absent:
            done[id(shadow)] = rest.spread(shadow, tensor)
    for made in initialised(structure,
                            virtual,
                            slots,
                            seed=seed,
                            device=mesh_device(mesh)):
        for shadow, tensor in made:
            if id(shadow) not in absent:
                done[id(shadow)] = rest.keep(shadow, tensor)
    put(slots, done)


class _Rest:
    """How each tensor of a structure lies at rest."""

    def __init__(self, structure: nn.Module, mesh: DeviceMesh,
                 at_rest: Mapping[str, Layout]) -> None:
        self.mesh = mesh
        self.placements: dict[int, list[Placement]] = {}
        for name, shadow in structure.named_parameters(remove_duplicate=False):
            found = at_rest.get(f"param:{name}")
            if found is not None:
                self.placements[id(shadow)] = [p.value for p in found]

    def _of(self, shadow: torch.Tensor) -> list[Placement]:
        return self.placements.get(id(shadow), [Replicate()] * self.mesh.ndim)

    @torch.no_grad()
    def spread(self, shadow: torch.Tensor,
               tensor: torch.Tensor) -> torch.Tensor:
        """The first rank's value over all ranks."""
        # A copy: a broadcast would write into the caller's tensor.
        data = tensor.detach().to(mesh_device(self.mesh), copy=True)
        return self._wrapped(
            shadow,
            distribute_tensor(data.contiguous(), self.mesh, self._of(shadow)))

    @torch.no_grad()
    def keep(self, shadow: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's part of a value that all ranks hold."""
        return self._wrapped(
            shadow, keep_part(tensor.detach(), self.mesh, self._of(shadow)))

    def _wrapped(self, shadow: torch.Tensor, value: DTensor) -> torch.Tensor:
        if isinstance(shadow, nn.Parameter):
            return nn.Parameter(value, requires_grad=shadow.requires_grad)
        return value.to_local().clone()


def _pairs(structure: nn.Module,
           model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor of the structure with the model's at the same place."""
    for shadows, real in zip(structure.modules(), model.modules(),
                             strict=True):
        for table, values in ((shadows._parameters, real._parameters),
                              (shadows._buffers, real._buffers)):
            for key, shadow in table.items():
                if shadow is not None:
                    yield shadow, values[key]


def take_whole(module: nn.Module, state: dict[str, Any], prefix: str, *rest:
               Any) -> None:
    """Let whole tensors be loaded where DTensors are held.

    A hook for ``register_load_state_dict_pre_hook``.
    """
    del rest
    for name in getattr(module, "elsewhere", ()):
        state.pop(prefix + name, None)
    own = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in own.items():
        value = state.get(prefix + name)
        if isinstance(value, DTensor):
            if value.device_mesh == parameter.device_mesh:
                continue
            value = value.full_tensor()
        if isinstance(value, torch.Tensor) and isinstance(
                parameter, DTensor) and value.shape == parameter.shape:
            state[prefix + name] = keep_part(value.detach(),
                                             parameter.device_mesh,
                                             parameter.placements)
