"""Prices of conversions on meshes, each made once."""

from __future__ import annotations

from planner.cluster.axis import AxisInfo, step_link
from planner.cluster.spec import ClusterSpec, DeviceKind, Link
from planner.cost.conversion import ConversionCost
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.search.tables import ConversionTables, Known

__all__ = ["MeshPrices"]

_NO_TIME = Link(latency_s=0.0, bandwidth_bytes_per_s=1e30)
"""Of micro-batches, between which nothing moves; policies say so."""

_Axes = tuple[AxisInfo, ...]


class MeshPrices:
    """Remembers what it has priced.

    Parameters
    ----------
    cluster : ClusterSpec
    expert_imbalance : float
        Tokens of the rank whose experts get most, over the mean.
    """

    def __init__(self, cluster: ClusterSpec, expert_imbalance: float) -> None:
        self._cluster = cluster
        self._expert_imbalance = expert_imbalance
        self._axes: dict[tuple[MeshSpec, MeshSpec | None], _Axes] = {}
        self._tables: dict[tuple[MeshSpec, _Axes], ConversionTables] = {}
        self._whole: dict[tuple[DeviceKind, int, _Axes], Known] = {}

    def tables(self,
               mesh: MeshSpec,
               whole: MeshSpec | None = None) -> ConversionTables:
        """Prices on a mesh, shared by all that ask for it.

        Parameters
        ----------
        mesh : MeshSpec
            May have an axis of micro-batches.
        whole : MeshSpec, optional
            The mesh in which its axes lie, where it is that of a stage.
            Left out: its ranks are neighbours.
        """
        if (mesh, whole) not in self._axes:
            self._axes[mesh, whole] = self._links(mesh, whole)
        axes = self._axes[mesh, whole]
        if (mesh, axes) not in self._tables:
            device = self.device(mesh)
            parts = (mesh.index(MICROBATCH)
                     if MICROBATCH in mesh.names else -1)
            real = tuple(a for i, a in enumerate(axes) if i != parts)
            self._tables[mesh, axes] = ConversionTables(
                ConversionCost(axes,
                               device,
                               expert_imbalance=self._expert_imbalance),
                parts=parts,
                whole=self._whole.setdefault((device, parts, real), {}))
        return self._tables[mesh, axes]

    def device(self, mesh: MeshSpec) -> DeviceKind:
        """What all ranks of a mesh are together; of a stage, which may be
        on any devices, the weakest there is."""
        if MICROBATCH in mesh.names:
            return self._cluster.weakest()
        return self._cluster.weakest(range(mesh.world_size))

    def _links(self, mesh: MeshSpec, whole: MeshSpec | None) -> _Axes:
        real = [n for n in mesh.names if n != MICROBATCH]
        if whole is None or any(n not in whole.names for n in real):
            whole = MeshSpec(tuple(real), tuple(map(mesh.size, real)))
        return tuple(
            AxisInfo(size=s, link=_NO_TIME) if n == MICROBATCH else step_link(
                self._cluster, whole.sizes, whole.index(n))
            for n, s in zip(mesh.names, mesh.sizes, strict=True))
