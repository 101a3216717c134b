"""Why no plan fits in memory, and the nearest changes with which one does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.candidate import Candidate
from planner.constraints import RECOMPUTE
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.layout import S
from planner.ir.mesh import MeshSpec
from planner.ir.program import value_kind
from planner.units import format_bytes
from planner.variation import like, without

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["fitting_changes", "tightest_rank", "why_not"]

_TIMES_AS_MANY = (2, 4, 8)
_SMALLEST_SHARE = 64


def why_not(planning: Planning, nearest: Candidate) -> str:
    """The text of the error when no plan fits.

    Parameters
    ----------
    planning : Planning
    nearest : Candidate
        The one that takes least too much.
    """
    parts = ", ".join(f"{kind} {format_bytes(size)}"
                      for kind, size in nearest.memory.by_kind().items()
                      if size)
    largest = next(iter(nearest.memory.by_kind()))
    drop = ("" if planning.constraints.allows_recompute() else
            f", or drop forbid({RECOMPUTE!r})")
    fitting = "; ".join(fitting_changes(planning, nearest))
    return (f"no plan of {planning.program.model_name} fits "
            f"{format_bytes(planning.limits.of(nearest))} per device: the "
            f"smallest, {nearest.name}, takes "
            f"{format_bytes(nearest.memory.total)} on "
            f"{tightest_rank(nearest)}, above all for "
            f"{largest} ({parts}); use more devices, a smaller batch, or "
            f"a higher memory_limit_bytes{drop}" +
            (f". What fits: {fitting}" if fitting else ""))


def tightest_rank(candidate: Candidate) -> str:
    """Where a candidate has least room in memory, in words.

    Examples
    --------
    ``every rank``, or ``pp rank 0 (stages 0 and 7)``.
    """
    if candidate.shared:
        fullest = next(r for r in candidate.shared
                       if r.memory is candidate.memory)
        return (
            f"ranks on {fullest.device.name} with {fullest.part:.1%} of the "
            "batch")
    if candidate.step is None or candidate.pipeline is None:
        return "every rank"
    rank = candidate.step.memory.index(candidate.memory)
    owner = candidate.step.schedule.stage_rank
    stages = [str(s) for s, r in enumerate(owner) if r == rank]
    word = "stage" if len(stages) == 1 else "stages"
    return (f"{candidate.pipeline.axis} rank {rank} ({word} "
            f"{' and '.join(stages)})")


def fitting_changes(planning: Planning, nearest: Candidate) -> list[str]:
    """The nearest changes with which a plan fits, each on its own.

    More devices, blocks that run again in the backward, smaller
    micro-batches, a smaller batch, and each constraint left out.
    """
    if planning.fits(nearest):
        return []
    tries = (_more_devices, _recomputed, _smaller_parts, _smaller_batch,
             _without)
    return [text for each in tries for text in each(planning, nearest)]


def _more_devices(planning: Planning, nearest: Candidate) -> Iterator[str]:
    """The fewest times as many devices, all on one axis: the outermost that
    is no pipeline's, or the pipeline's."""
    staged = nearest.pipeline and nearest.pipeline.axis
    axes = [n for n in nearest.mesh.names if n != staged][:1]
    if staged:
        axes.append(staged)
    for times in _TIMES_AS_MANY:
        for axis in axes:
            found = _on_more(planning, nearest, axis, times)
            if found is not None and planning.fits(found):
                yield (f"{found.mesh.world_size} devices ({found.mesh}) take "
                       f"{format_bytes(found.memory.total)} each")
                return


def _on_more(planning: Planning, nearest: Candidate, axis: str,
             times: int) -> Candidate | None:
    """The same on a longer axis; None where it can't be."""
    mesh = _larger(nearest.mesh, axis, times)
    try:
        larger = planning.cluster.resized(mesh.world_size)
        return like(planning.copied(cluster=larger), nearest, mesh)
    except (InfeasiblePlan, LayoutError, ScheduleError, ValueError):
        return None


def _larger(mesh: MeshSpec, axis: str, times: int) -> MeshSpec:
    return MeshSpec(
        mesh.names,
        tuple(s * times if n == axis else s
              for n, s in zip(mesh.names, mesh.sizes, strict=True)))


def _recomputed(planning: Planning, nearest: Candidate) -> Iterator[str]:
    """Running blocks again is tried in any case, unless it is forbidden."""
    repeated = planning.repeated_classes()
    if nearest.layout.recompute or not repeated:
        return
    again = planning.recomputed(nearest, repeated)
    if planning.fits(again):
        yield (f"recomputing {', '.join(repeated)} takes "
               f"{format_bytes(again.memory.total)}")


def _smaller_parts(planning: Planning, nearest: Candidate) -> Iterator[str]:
    if nearest.pipeline is None:
        return
    for times in _TIMES_AS_MANY:
        spec = dataclasses.replace(nearest.pipeline,
                                   microbatches=times *
                                   nearest.pipeline.microbatches)
        try:
            found = like(planning, dataclasses.replace(nearest, pipeline=spec),
                         nearest.mesh)
        except (LayoutError, ScheduleError):
            return
        if planning.fits(found):
            yield (f"{spec.microbatches} micro-batches take "
                   f"{format_bytes(found.memory.total)}")
            return


def _smaller_batch(planning: Planning, nearest: Candidate) -> Iterator[str]:
    """A share of the batch, since activations grow with it and state does
    not; no smaller than what the layouts divide."""
    rows = planning.facts.batch_rows // _parts_of_batch(planning, nearest)
    share, limit_bytes = 2, planning.limits.of(nearest)
    while share <= min(rows, _SMALLEST_SHARE) and rows % share == 0:
        size = nearest.memory.of_share(share)
        if size <= limit_bytes:
            yield (f"a batch 1/{share} as large takes about "
                   f"{format_bytes(size)}")
            return
        share *= 2


def _parts_of_batch(planning: Planning, nearest: Candidate) -> int:
    """Into how many ranks and micro-batches divide the batch."""
    layout = nearest.layout
    inputs = [
        layout.at_rest[n] for n in planning.program.specs
        if value_kind(n) == "input"
    ]
    return math.prod(size for axis, size in enumerate(layout.mesh.sizes)
                     if any(own[axis] is S(0) for own in inputs))


def _without(planning: Planning, nearest: Candidate) -> Iterator[str]:
    for item in planning.constraints.restricting:
        try:
            found = without(planning, item).candidates([nearest.mesh])
        except InfeasiblePlan:
            continue
        if found and planning.fits(found[0]):
            yield (f"without {item}, {found[0].name} takes "
                   f"{format_bytes(found[0].memory.total)}")
