"""How fast the machine is now, against when it was profiled.

A virtual machine has neighbours and a device gets warm: what kernels take
changes by tens of percent from one hour to the next. So some kernels of a
profile are measured again, for a second, and its numbers scaled by what they
take now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch

from planner.cluster.device import Coefficient
from planner.cluster.load import load_cluster
from planner.cluster.local import cache_folder, local_path, profile_key
from planner.cluster.spec import ClusterSpec
from planner.profile.job import Job, Refused
from planner.profile.measure import measure_points
from planner.profile.operations import OPERATIONS
from planner.profile.point import Point
from planner.profile.points import points_for
from planner.profile.run import POINTS_FILE
from planner.profile.store import Measured, Store

__all__ = ["at_pace", "clear_pace", "pace"]

_KERNELS = 12
_BUDGET_S = 1.0
_CLEARLY = 1.1
"""Up to this ratio, either way, the machine counts as being as it was."""
_OF_THE_HOST = frozenset({
    "adamw_foreach_parameter_s", "adamw_fused_parameter_s", "call_parameter_s",
    "call_s", "dispatch_s", "message_s", "view_s"
})


def pace(job: Job,
         known: Mapping[Point, Measured],
         *,
         budget_s: float = _BUDGET_S) -> float:
    """How many times as long kernels take now, the median of some.

    All ranks call this together, and get the same.

    Parameters
    ----------
    job : Job
    known : mapping of Point to Measured
        Of a profile of as many processes; the same on all ranks.
    budget_s : float
        No kernel is begun after so many seconds.

    Raises
    ------
    Refused
        On every rank, when a kernel does not run on some rank now, such as
        where the accelerator's memory is full. What the others take beside
        it is not what they took when profiled.
    """
    kernels = sorted((p for p in known if p.kind in OPERATIONS), key=str)
    some = kernels[::max(len(kernels) // _KERNELS, 1)]
    found = measure_points(some, job, None, budget_s=budget_s)
    if job.device.type != "cpu":
        job.together(torch.accelerator.empty_cache)
    if found.refused:
        raise Refused(next(iter(found.refused.values())))
    now = found.known
    ratios = [now[p].median / known[p].median for p in now]
    ratio: float = job.first(statistics.median(ratios) if ratios else 1.0)
    return ratio


def clear_pace(job: Job, *, folder: Path | None = None) -> float:
    """The machine's pace, where it clearly is another than in its profile.

    All ranks call this together, and get the same. Without a profile of as
    many processes, and points that can be read, nothing is measured, and it
    is 1.

    Parameters
    ----------
    job : Job
    folder : Path, optional
        The cache; the user's if left out.

    Raises
    ------
    Refused
        As `pace` does.
    """
    known = _known(job, folder)
    found = pace(job, known) if known else 1.0
    return found if max(found, 1 / found) > _CLEARLY else 1.0


def at_pace(cluster: ClusterSpec, ratio: float, *,
            device_type: str) -> ClusterSpec:
    """A cluster on which all that is computed takes `ratio` times as long.

    Links stay as they are, and what a host does beside an accelerator; where
    processors compute they are the host.

    Parameters
    ----------
    cluster : ClusterSpec
    ratio : float
    device_type : str
        ``cpu``, ``cuda``, ...
    """
    device = cluster.device
    stays = frozenset[str]() if device_type == "cpu" else _OF_THE_HOST
    bandwidth = device.memory_bandwidth_bytes_per_s / ratio
    return dataclasses.replace(
        cluster,
        device=dataclasses.replace(
            device,
            memory_bandwidth_bytes_per_s=bandwidth,
            peak_flops_per_s=tuple(
                (d, f / ratio) for d, f in device.peak_flops_per_s),
            launch_overhead_s=device.launch_overhead_s * ratio,
            coefficients=tuple(
                c if c.name in stays else _coefficient_at(c, ratio)
                for c in device.coefficients),
            source=f"{device.source}, at {ratio:.2f} times the time"))


def _known(job: Job, folder: Path | None) -> dict[Point, Measured]:
    """The points that the first rank has of a profile of as many."""
    kept = job.by_first(lambda: _kept(job, folder))
    return {
        p: kept[p.row]
        for p in points_for(job.device.type, job.size) if p.row in kept
    }


def _kept(job: Job, folder: Path | None) \
        -> dict[tuple[str, str, str, str], Measured]:
    """None where they, or the profile, can't be read."""
    folder = cache_folder() if folder is None else folder
    path, device = folder / POINTS_FILE, job.device.type
    profiled = local_path(device, job.size, folder=folder)
    try:
        if not (profiled.exists() and path.exists()):
            return {}
        load_cluster(profiled)
        with contextlib.closing(Store(path, profile_key(device,
                                                        job.size))) as store:
            return store.all()
    except (OSError, ValueError):
        return {}


def _coefficient_at(coefficient: Coefficient, ratio: float) -> Coefficient:
    """Of seconds or a rate, as its name says."""
    name, value = coefficient.name, coefficient.value
    if name.endswith("_per_s"):
        value /= ratio
    elif name.endswith(("_s", "_s_per_byte")):
        value *= ratio
    return dataclasses.replace(coefficient, value=value)
