"""Ranks in a grid with named axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from planner.ir.mesh import MeshSpec
from scaletorch.dist.start import Process
from scaletorch.mesh import mesh_rank, spec_of

__all__ = ["Mesh", "make_mesh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A device mesh, and where this process stands in it.

    Parameters
    ----------
    device_mesh : DeviceMesh
        What ``scaletorch.auto_parallelize`` takes.
    """

    device_mesh: DeviceMesh

    @property
    def spec(self) -> MeshSpec:
        """The axes' names and sizes."""
        return spec_of(self.device_mesh)

    def size(self, *axes: str) -> int:
        """Ranks along the axes; without any, of the whole mesh."""
        return math.prod(self.spec.size(a) for a in self._checked(axes))

    def coordinate(self, *axes: str) -> int:
        """This rank's place along the axes, the first varies slowest."""
        place = self.spec.coordinate(mesh_rank(self.device_mesh))
        found = 0
        for axis in self._checked(axes):
            found = found * self.spec.size(axis) + place[self.spec.index(axis)]
        return found

    def is_first(self, *axes: str) -> bool:
        """Whether this rank is the first along the axes."""
        return self.coordinate(*axes) == 0

    def is_last(self, *axes: str) -> bool:
        """Whether this rank is the last along the axes."""
        return self.coordinate(*axes) == self.size(*axes) - 1

    def group(self, *axes: str) -> dist.ProcessGroup:
        """The ranks that differ from this one along the axes only.

        The group of several axes is made by the first call, which all
        ranks of the mesh make together.
        """
        axes = self._checked(axes)
        if len(axes) == 1:
            return self.device_mesh.get_group(axes[0])
        if self.device_mesh.ndim == 1:
            return self.device_mesh.get_group()
        return self.device_mesh[axes]._flatten().get_group()

    def ranks(self, *axes: str) -> tuple[int, ...]:
        """The job's ranks of that group, in order of their coordinate."""
        axes = self._checked(axes)
        own = mesh_rank(self.device_mesh)
        place = self.spec.coordinate(own)
        kept = [i for i, n in enumerate(self.spec.names) if n not in axes]
        ranks = self.device_mesh.mesh.flatten().tolist()
        return tuple(rank for number, rank in enumerate(ranks) if all(
            self.spec.coordinate(number)[i] == place[i] for i in kept))

    def neighbour(self, axis: str, step: int = 1) -> int:
        """The job's rank some steps along an axis, around its end."""
        ranks = self.ranks(axis)
        return ranks[(self.coordinate(axis) + step) % len(ranks)]

    def _checked(self, axes: Sequence[str]) -> tuple[str, ...]:
        """The axes in the mesh's order; all where none is named."""
        for axis in axes:
            self.spec.index(axis)
        if len(set(axes)) != len(axes):
            raise ValueError(f"axes repeat: {', '.join(axes)}")
        return tuple(n for n in self.spec.names if n in axes or not axes)

    def __str__(self) -> str:
        return str(self.spec)


def make_mesh(sizes: Mapping[str, int], process: Process) -> Mesh:
    """All ranks of the job as a grid.

    Parameters
    ----------
    sizes : mapping of str to int
        Ranks along every axis, outermost first; one may be -1, for
        whatever is left.
    process : Process

    Raises
    ------
    ValueError
        When the sizes do not make up the job.

    Examples
    --------
    >>> from scaletorch import dist
    >>> process = dist.init("cpu", variables={})
    >>> print(make_mesh({"dp": -1, "tp": 1}, process))
    dp=1 x tp=1
    >>> dist.shutdown()
    """
    found = _filled(sizes, process.world_size)
    spec = MeshSpec(tuple(found), tuple(found.values()))
    if not found or spec.world_size != process.world_size:
        raise ValueError(
            f"a mesh of {spec or 'no axes'} has {spec.world_size} ranks, but "
            f"the job has {process.world_size}; start as many, or give one "
            "axis the size -1")
    mesh = init_device_mesh(process.device.type,
                            spec.sizes,
                            mesh_dim_names=spec.names)
    return Mesh(device_mesh=mesh)


def _filled(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    found = dict(sizes)
    still = [n for n, s in found.items() if s == -1]
    if len(still) > 1:
        raise ValueError(f"only one axis can have the size -1, not "
                         f"{' and '.join(still)}")
    for name in still:
        rest = math.prod(s for s in found.values() if s != -1)
        if rest < 1 or world_size % rest:
            raise ValueError(
                f"{world_size} ranks can't be divided by the other axes' "
                f"{rest}, so {name} has no size; choose divisors")
        found[name] = world_size // rest
    return found
