"""Which cluster description fits the devices that this job runs on."""

from __future__ import annotations

from pathlib import Path

import torch

from planner.cluster import load_cluster
from planner.cluster.spec import ClusterSpec

__all__ = ["cluster_of"]

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
