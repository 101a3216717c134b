"""Which devices the stages of a pipeline are on."""

from __future__ import annotations

from collections.abc import Sequence

from planner.cluster.along import devices_along
from planner.cluster.spec import ClusterSpec, DeviceKind
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec
from planner.schedule.named import make_schedule

__all__ = ["rank_devices", "stage_devices"]


def rank_devices(cluster: ClusterSpec, pipeline: PipelineSpec,
                 mesh: MeshSpec) -> tuple[DeviceKind, ...]:
    """Of each rank of the pipeline's axis."""
    return devices_along(cluster, mesh.sizes, mesh.index(pipeline.axis))


def stage_devices(pipeline: PipelineSpec,
                  ranks: Sequence[DeviceKind]) -> tuple[DeviceKind, ...]:
    """Of each stage.

    Parameters
    ----------
    pipeline : PipelineSpec
        The stages of ``auto``, whose schedule is not known yet, are taken
        to lie on the ranks in turn.
    ranks : sequence of DeviceKind
        Of each rank.

    Raises
    ------
    ScheduleError
        When the schedule is not for these numbers.
    """
    if len(set(ranks)) == 1 or pipeline.schedule == "auto":
        return tuple(ranks) * pipeline.chunks
    schedule = make_schedule(pipeline.schedule,
                             ranks=len(ranks),
                             microbatches=pipeline.microbatches,
                             chunks=pipeline.chunks)
    return tuple(ranks[owner] for owner in schedule.stage_rank)
