"""Which cluster description fits the devices that this job runs on."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from planner.cluster.load import load_cluster, read_profile
from planner.cluster.local import (LOCAL, PROFILE_COMMAND, cache_folder,
                                   find_local)
from planner.cluster.spec import ClusterSpec
from planner.profile.job import Job, Refused
from planner.profile.pace import at_pace, clear_pace
from planner.profile.run import profile
from scaletorch.mesh import mesh_device
from scaletorch.runtime.agree import Agreement

__all__ = [
    "PROFILE", "VARIABLE", "agreed_cluster", "at_machines_pace", "cluster_of",
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
VARIABLE = "SCALETORCH_CLUSTER"
"""Of the environment: names the cluster where none is given."""
_BRIEFLY_S = 20.0
_SIMULATED = ("threaded", "fake")
"""Backends whose ranks are no processes."""

_LOGGER = logging.getLogger("scaletorch")


def agreed_cluster(cluster: str | Path | ClusterSpec | None,
                   devices: DeviceMesh, agreement: Agreement, *,
                   measure: bool) -> ClusterSpec:
    """The cluster that all ranks plan for, at the machine's pace of now.

    All ranks of the mesh call this together.

    Parameters
    ----------
    cluster : str, Path, ClusterSpec or None
    devices : DeviceMesh
    agreement : Agreement
        Of the ranks of that mesh.
    measure : bool
        Whether the machine is profiled, briefly, where no cluster is named
        and it has no profile.

    Raises
    ------
    ValueError
        When nothing is known under the name, or of the device; when only
        another rank failed, RuntimeError.
    """
    cluster = _named(cluster)
    if cluster is None:
        return _unnamed(devices, agreement, measure=measure)
    with agreement.together("finding the cluster"):
        spec = (profiled_cluster(devices) if cluster == PROFILE else
                cluster_of(cluster, devices.size(), devices.device_type))
    return (spec if cluster != LOCAL else _paced(spec, devices, agreement))


def _named(
    cluster: str | Path | ClusterSpec | None
) -> str | Path | ClusterSpec | None:
    """What is given, else what the environment names."""
    return cluster if cluster is not None else os.environ.get(VARIABLE) or None


def _paced(spec: ClusterSpec, devices: DeviceMesh,
           agreement: Agreement) -> ClusterSpec:
    """The first rank's, at the pace of now: hosts have caches of their own."""
    return at_machines_pace(agreement.first(spec),
                            devices,
                            tell=agreement.is_first)


def _unnamed(devices: DeviceMesh, agreement: Agreement, *,
             measure: bool) -> ClusterSpec:
    """The profile of this machine, made now where there is none and all can
    take part in it, else a preset; says which."""
    with agreement.together("finding the cluster"):
        found = _found(devices.size(), devices.device_type)
    found, tell = agreement.first(found), agreement.is_first
    if found.path is not None:
        if tell:
            _LOGGER.info(
                "cluster was not given: planning for the profile of this "
                "machine in %s", found.path)
        return _paced(found.spec, devices, agreement)
    problem = found.problem
    if measure and not _why_not_measured(devices):
        if tell:
            _LOGGER.info(
                "cluster was not given, and there is no profile of this "
                "machine: measuring it for at most %d s, once (kept in %s)",
                _BRIEFLY_S, cache_folder())
        try:
            with agreement.together("profiling the machine"):
                return profiled_cluster(devices)
        except Exception as error:
            problem = f"measuring the machine failed ({error})"
    if tell:
        what_to_do = problem or (
            f"for a better prediction run {PROFILE_COMMAND} once, or pass "
            f"cluster= (\"{PROFILE}\", a preset or a YAML file)")
        warnings.warn(
            "cluster was not given: planning for the preset "
            f"{found.spec.name}; {what_to_do}",
            stacklevel=4)
    return found.spec


def cluster_of(cluster: str | Path | ClusterSpec | None, world_size: int,
               device_type: str) -> ClusterSpec:
    """The cluster that was named, or the nearest known, large enough.

    Parameters
    ----------
    cluster : str, Path, ClusterSpec or None
        None: what the environment's ``SCALETORCH_CLUSTER`` names, else the
        cached profile of this machine, else a preset.
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
    cluster = _named(cluster)
    if cluster is None:
        return _found(world_size, device_type).spec
    if cluster in (LOCAL, PROFILE):
        path = find_local(device_type, world_size)
        if path is None:
            raise ValueError(
                f"there is no profile of this machine with {world_size} "
                f"{device_type} devices in {cache_folder()}: run "
                f"{PROFILE_COMMAND}, or pass cluster=\"{PROFILE}\"")
        return read_profile(path)
    return _large_enough(load_cluster(cluster), world_size)


def _large_enough(spec: ClusterSpec, world_size: int) -> ClusterSpec:
    return (spec
            if spec.num_devices >= world_size else spec.resized(world_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The cluster where none was named.

    Parameters
    ----------
    spec : ClusterSpec
    path : Path or None
        Of the profile that it is; None: it is a preset.
    problem : str
        Why a profile that there is can't be read.
    """

    spec: ClusterSpec
    path: Path | None = None
    problem: str = ""


def _found(world_size: int, device_type: str) -> _Found:
    problem = ""
    path = find_local(device_type, world_size)
    if path is not None:
        try:
            return _Found(spec=read_profile(path), path=path)
        except ValueError as error:
            problem = str(error)
    preset = load_cluster(_preset(device_type))
    return _Found(spec=_large_enough(preset, world_size), problem=problem)


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
    problem = _why_not_measured(devices)
    if problem:
        raise ValueError(f"cluster=\"{PROFILE}\" {problem}")
    job = Job(mesh_device(devices))
    try:
        return profile(job, budget_s=_BRIEFLY_S).cluster
    finally:
        job.leave()


def _why_not_measured(devices: DeviceMesh) -> str:
    """Why a mesh's ranks can't profile the machine; empty if they can."""
    if devices.size() != dist.get_world_size():
        return ("measures with every rank of the job, but the mesh has "
                f"{devices.size()} of {dist.get_world_size()}; run "
                f"{PROFILE_COMMAND} before, or pass a mesh of all ranks")
    if dist.get_backend() in _SIMULATED:
        return ("would measure simulated ranks; start real processes, or name "
                "a cluster")
    return ""


def at_machines_pace(spec: ClusterSpec, devices: DeviceMesh, *,
                     tell: bool) -> ClusterSpec:
    """The profile of this machine, scaled to what kernels take now.

    All ranks of the mesh call this together. Where there is no profile of as
    many processes, or the mesh is a part of the job or begins with another
    rank than it, nothing is measured. Where a rank can't measure, such as
    beside a model that fills its accelerator, nothing is scaled on any.

    Parameters
    ----------
    spec : ClusterSpec
        That profile, or what stands in for one.
    devices : DeviceMesh
    tell : bool
        Whether to log by how much it was scaled, or why it was not.
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
    except Refused as error:
        if tell:
            _LOGGER.warning(
                "what kernels take now could not be measured (%s): planning "
                "for the profile of this machine as it was made", error)
        return spec
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
