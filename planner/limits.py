"""What every rank of a plan may take of its device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.candidate import Candidate
from planner.cluster.spec import ClusterSpec, DeviceKind
from planner.cost.memory_estimate import MemoryEstimate
from planner.pipeline.devices import rank_devices

__all__ = ["MemoryLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimits:
    """The limit of each rank.

    Parameters
    ----------
    cluster : ClusterSpec
    given_bytes : int, optional
        Of every rank; the memory of its own device if left out.
    """

    cluster: ClusterSpec
    given_bytes: int | None = None

    @property
    def least_bytes(self) -> int:
        """Of any device."""
        return self.on(self.cluster.weakest())

    def on(self, device: DeviceKind) -> int:
        """Of a device, or of several in step."""
        return self.given_bytes or int(device.memory_bytes)

    def devices(self, candidate: Candidate) -> tuple[DeviceKind, ...]:
        """Of each rank of its pipeline or with a share of its own; of all
        ranks together without."""
        mesh, pipeline = candidate.mesh, candidate.pipeline
        if candidate.shared:
            return tuple(s.device for s in candidate.shared)
        if pipeline is None:
            return (self.cluster.weakest(range(mesh.world_size)), )
        return rank_devices(self.cluster, pipeline, mesh)

    def fullest(self, memory: Sequence[MemoryEstimate],
                devices: Sequence[DeviceKind]) -> int:
        """The rank that is furthest over its limit, or next to it."""
        over = [m.total - self.on(d) for m, d in zip(memory, devices)]
        return over.index(max(over))

    def of(self, candidate: Candidate) -> int:
        """Of the candidate's fullest rank, whose memory it tells."""
        devices = self.devices(candidate)
        rank = self.fullest(candidate.rank_memory, devices)
        return self.on(devices[rank])

    def excess_bytes(self, candidate: Candidate) -> int:
        """By how much the fullest rank is over its limit."""
        devices = self.devices(candidate)
        return max(
            0,
            *(m.total - self.on(d)
              for m, d in zip(candidate.rank_memory, devices)))
