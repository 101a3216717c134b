"""The cluster that a published run was made on."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.cluster.load import load_cluster
from planner.cluster.spec import ClusterSpec
from scripts.published.case import Unreadable

__all__ = ["cluster_of", "preset_of"]

_PRESETS = (("GB300", "gb300-nvl72"), ("GB200", "gb200-nvl72"),
            ("B300", "b300-sxm"), ("B200", "b200-sxm"), ("H200", "h200-sxm"),
            ("H800", "h800-sxm"), ("H100-96GB", "h100-96g-500w"),
            ("H100-PCIe", "h100-pcie"), ("H100", "h100-sxm"), ("A800",
                                                               "a800-80g"),
            ("A100-40GB", "a100-40g"), ("A100-SXM4-40GB",
                                        "a100-40g"), ("A100", "a100-80g"),
            ("V100-32GB", "v100-32g"), ("V100", "v100-16g"), ("L40S", "l40s"),
            ("L4", "l4"), ("4090", "rtx-4090"), ("MI300X", "mi300x"),
            ("MI250", "mi250x"), ("MI200", "mi250x"), ("910B", "ascend-910b"),
            ("TPU-v5p", "tpu-v5p"), ("TPU-v5e", "tpu-v5e"), ("TPU-v4",
                                                             "tpu-v4"))


def preset_of(gpu: str) -> str:
    """The preset of the devices that a row names."""
    name = re.sub(r"[ _]+", "-", gpu.strip().upper())
    name = re.sub(r"TPU-?V", "TPU-V", name)
    if "A100" in name and "PCI" in name:
        raise Unreadable("no preset for an A100 on PCI Express")
    if "A100" in name and "40G" in name:
        return "a100-40g"
    for part, preset in _PRESETS:
        if part.upper() in name:
            return preset
    raise Unreadable(f"no preset for devices called {gpu!r}")


def cluster_of(hardware: Mapping[str, Any], devices: int) -> ClusterSpec:
    """The cluster of a row, with the fabric that the row states."""
    return _cluster(preset_of(str(hardware.get("gpu", ""))), devices,
                    int(hardware.get("gpus_per_node") or 0),
                    str(hardware.get("inter_link") or ""))


@functools.lru_cache(maxsize=1024)
def _cluster(preset: str, devices: int, per_node: int,
             inter_link: str) -> ClusterSpec:
    cluster = load_cluster(preset)
    node = min(per_node or cluster.tiers[0].size, devices)
    nodes = -(-devices // node)
    cluster = cluster.with_sizes(nodes, node)
    rate = _stated_rate(inter_link, node)
    if rate is None:
        return cluster
    outer = cluster.tiers[-1]
    link = replace(outer.link,
                   bandwidth_bytes_per_s=rate,
                   links_per_device=min(outer.link.links_per_device, 1.0))
    return replace(cluster,
                   tiers=(*cluster.tiers[:-1], replace(outer, link=link)))


def _stated_rate(text: str, node: int) -> float | None:
    """Bytes per second and device of a fabric described in words."""
    several = re.search(r"(\d+) ?[x×] ?(?:[A-Za-z]+ )*?(\d+) ?Gb", text)
    if several:
        return int(several[1]) * int(several[2]) * 1e9 / 8 / node
    each = re.search(r"(\d+) Gb/s.*per GPU", text)
    if each:
        return int(each[1]) * 1e9 / 8
    whole = re.search(
        r"(\d+) ?(?:Gbps|Gbit/s|Gb/s|GbE)(?: node| Ethernet|.*per node)", text)
    if whole:
        return int(whole[1]) * 1e9 / 8 / node
    if "Omni-Path" in text:
        return 4 * 100e9 / 8 / node
    return None
