"""Which cluster description fits the devices that this job runs on."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from planner.cluster import load_cluster
from planner.cluster.local import (LOCAL, PROFILE_COMMAND, cache_folder,
                                   find_local)
from planner.cluster.spec import ClusterSpec
from planner.profile.job import Job
from planner.profile.pace import at_pace, clear_pace
from planner.profile.run import profile
from scaletorch.mesh import mesh_device

__all__ = [
    "PROFILE", "at_machines_pace", "cluster_of", "found_cluster",
    "profiled_cluster"
]

# The first part that is in the device's name decides.
_BY_NAME = (("GB300", "gb300-nvl72"), ("GB200", "gb200-nvl72"), ("B300",
                                                                 "b300-sxm"),
            ("B200", "b200-sxm"), ("H200", "h200-sxm"), ("H800", "h800-sxm"),
            ("H100 PCIe", "h100-pcie"), ("H100", "h100-sxm"), ("A800",
                                                               "a800-80g"),
            ("A100-SXM4-40GB",
             "a100-40g"), ("A100", "a100-80g"), ("V100-SXM2-16GB", "v100-16g"),
            ("V100", "v100-32g"), ("L40S", "l40s"), ("L4", "l4"), ("4090",
                                                                   "rtx-4090"),
            ("MI300X", "mi300x"), ("MI250", "mi250x"), ("910B", "ascend-910b"))

PROFILE = "profile"
"""What asks for a short profile of the machine before planning."""
_BRIEFLY_S = 20.0
_SIMULATED = ("threaded", "fake")
"""Backends whose ranks are no processes."""

_LOGGER = logging.getLogger("scaletorch")


def cluster_of(cluster: str | Path | ClusterSpec | None, world_size: int,
               device_type: str) -> ClusterSpec:
    """The cluster that was named, or the nearest known, large enough.

    Parameters
    ----------
    cluster : str, Path, ClusterSpec or None
        None: the cached profile of this machine, else a preset.
        ``"local"`` and ``"profile"``: the cached profile.
    world_size : int
        Devices that are needed.
    device_type : str
        ``cpu``, ``cuda``, ...

    Raises
    ------
    ValueError
        When nothing is known under the name, or of the device.
    """
    if cluster is None or cluster in (LOCAL, PROFILE):
        path = find_local(device_type, world_size)
        if path is None and cluster is not None:
            raise ValueError(
                f"there is no profile of this machine with {world_size} "
                f"{device_type} devices in {cache_folder()}: run "
                f"{PROFILE_COMMAND}, or pass cluster=\"{PROFILE}\"")
        cluster = path or _preset(device_type)
    spec = load_cluster(cluster)
    if spec.num_devices < world_size:
        spec = spec.resized(world_size)
    return spec


def found_cluster(devices: DeviceMesh, *, tell: bool) -> ClusterSpec:
    """The cluster to plan for where none was named.

    Parameters
    ----------
    devices : DeviceMesh
    tell : bool
        Whether to log that a profile is used, or warn that a preset is.
    """
    size, device_type = devices.size(), devices.device_type
    spec = cluster_of(None, size, device_type)
    path = find_local(device_type, size)
    if path is not None and tell:
        _LOGGER.info(
            "cluster was not given: planning for the profile of this "
            "machine in %s", path)
    elif tell:
        warnings.warn(
            f"cluster was not given: planning for the preset {spec.name}; "
            f"for a better prediction run {PROFILE_COMMAND} once, or pass "
            f"cluster= (\"{PROFILE}\", a preset or a YAML file)",
            stacklevel=5)
    return spec


def profiled_cluster(devices: DeviceMesh) -> ClusterSpec:
    """Profile the machine briefly, with all ranks, and keep the profile.

    What the cache has is not measured again.

    Parameters
    ----------
    devices : DeviceMesh
        All ranks of the job.

    Raises
    ------
    ValueError
        When the mesh is a part of the job, or its ranks are simulated.
    """
    if devices.size() != dist.get_world_size():
        raise ValueError(
            f"cluster=\"{PROFILE}\" measures with every rank of the job, but "
            f"the mesh has {devices.size()} of {dist.get_world_size()}; run "
            f"{PROFILE_COMMAND} before, or pass a mesh of all ranks")
    if dist.get_backend() in _SIMULATED:
        raise ValueError(f"cluster=\"{PROFILE}\" would measure simulated "
                         "ranks; start real processes, or name a cluster")
    job = Job(mesh_device(devices))
    try:
        return profile(job, budget_s=_BRIEFLY_S).cluster
    finally:
        job.leave()


def at_machines_pace(spec: ClusterSpec, devices: DeviceMesh, *,
                     tell: bool) -> ClusterSpec:
    """The profile of this machine, scaled to what kernels take now.

    All ranks of the mesh call this together. Where there is no profile of as
    many processes, or the mesh is a part of the job or begins with another
    rank than it, nothing is measured.

    Parameters
    ----------
    spec : ClusterSpec
        That profile, or what stands in for one.
    devices : DeviceMesh
    tell : bool
        Whether to log by how much it was scaled.
    """
    if (devices.size() != dist.get_world_size()
            or devices.mesh.flatten()[0].item() != 0
            or dist.get_backend() in _SIMULATED):
        return spec
    job = Job(mesh_device(devices))
    try:
        pace = clear_pace(job)
        if pace == 1:
            return spec
        if tell:
            _LOGGER.info(
                "kernels take %.2f times as long as when this machine was "
                "profiled: planning for that pace (measure anew with %s "
                "--refresh)", pace, PROFILE_COMMAND)
        return at_pace(spec, pace, device_type=devices.device_type)
    finally:
        job.leave()


def _preset(device_type: str) -> str:
    if device_type == "cpu":
        return "cpu-gloo"
    name = torch.get_device_module(device_type).get_device_name()
    for part, preset in _BY_NAME:
        if part in name:
            return preset
    raise ValueError(
        f"there is no preset for {name}: pass cluster= (a preset name or a "
        "YAML file of its specification)")
