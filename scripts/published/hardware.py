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

_PRESETS = tuple(
    (re.compile(pattern), preset)
    for pattern, preset in (("GB300", "gb300-nvl72"), ("GB200", "gb200-nvl72"),
                            ("B300", "b300-sxm"), ("B200", "b200-sxm"),
                            ("H200", "h200-sxm"), ("H800", "h800-sxm"),
                            (r"H100(?!\d).*\b96GB?\b",
                             "h100-96g-500w"), (r"H100(?!\d).*\bPCIE",
                                                "h100-pcie"), (r"H100(?!\d)",
                                                               "h100-sxm"),
                            ("A800", "a800-80g"), (r"A100(?!\d).*\b40GI?B?\b",
                                                   "a100-40g"), (r"A100(?!\d)",
                                                                 "a100-80g"),
                            (r"V100(?!\d).*\b32GI?B?\b",
                             "v100-32g"), (r"V100(?!\d)",
                                           "v100-16g"), (r"\bL40S\b", "l40s"),
                            (r"\bL4\b", "l4"), (r"\b(RTX)?4090\b", "rtx-4090"),
                            ("MI300X", "mi300x"), ("MI2[05]0", "mi250x"),
                            ("910B", "ascend-910b"), (r"(\b|TPU)V?5P\b",
                                                      "tpu-v5p"),
                            (r"(\b|TPU)V?5(E|-?LITE)",
                             "tpu-v5e"), (r"\b(TPU-?)?V4\b", "tpu-v4")))
_LACKING = tuple(
    (re.compile(pattern), what)
    for pattern, what in ((r"A100(?!\d).*PCI", "an A100 on PCI Express"),
                          (r"V100(?!\d).*PCI", "a V100 on PCI Express"),
                          (r"H100(?!\d).*\bNVL\b", "an H100 NVL")))

_PORTS = {"EDR": 100, "HDR": 200, "NDR": 400, "XDR": 800}
"""Gb/s of InfiniBand by generation."""


def preset_of(gpu: str) -> str:
    """The preset of the devices that a row names.

    Raises
    ------
    Unreadable
        For devices without a preset.
    """
    name = re.sub("[^A-Z0-9]+", "-", gpu.upper())
    for pattern, what in _LACKING:
        if pattern.search(name):
            raise Unreadable(f"no preset for {what}")
    for pattern, preset in _PRESETS:
        if pattern.search(name):
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
    ports = re.search(r"(\d+) ?[x×] ?(EDR|HDR|NDR|XDR)", text)
    if ports:
        return int(ports[1]) * _PORTS[ports[2]] * 1e9 / 8 / node
    each = re.search(r"(\d+) Gb/s.*per GPU", text)
    if each:
        return int(each[1]) * 1e9 / 8
    whole = re.search(
        r"(\d+) ?(?:Gbps|Gbit/s|Gb/s|GbE)(?: node| Ethernet|.*per node)", text)
    if whole:
        return int(whole[1]) * 1e9 / 8 / node
    cloud = re.search(r"([\d.]+) ?(G|T)b", text) if "EFA" in text else None
    if cloud:  # a node's network adapters together
        unit = 1e9 if cloud[2] == "G" else 1e12
        return float(cloud[1]) * unit / 8 / node
    if "Omni-Path" in text:
        return 4 * 100e9 / 8 / node
    return None
