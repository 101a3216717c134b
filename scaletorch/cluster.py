"""Which cluster description fits the devices that this job runs on."""

from __future__ import annotations

from pathlib import Path

import torch

from planner.cluster import load_cluster
from planner.cluster.spec import ClusterSpec

__all__ = ["cluster_of"]

_BY_NAME = (("H100", "h100-sxm"), ("H200", "h100-sxm"), ("A100", "a100-80g"))


def cluster_of(cluster: str | Path | ClusterSpec | None, world_size: int,
               device_type: str) -> ClusterSpec:
    """The cluster that was named, or the nearest preset, large enough.

    Parameters
    ----------
    cluster : str, Path, ClusterSpec or None
    world_size : int
        Devices that are needed.
    device_type : str
        ``cpu``, ``cuda``, ...
    """
    spec = load_cluster(_preset(device_type) if cluster is None else cluster)
    if spec.num_devices < world_size:
        spec = spec.resized(world_size)
    return spec


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
