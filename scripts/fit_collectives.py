"""Fit the links of the presets on published collective measurements.

    python -m scripts.fit_collectives FILE [--json]

Per fabric: latency, overhead, efficiency, segment time and, where there are
reducing switches, their share, by least squares of log time over all
collectives, sizes and groups. A fifth of the points, chosen by a hash of
the row and the size, is kept aside. Prints the parameters and the error by
source and collective on both parts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from planner.cluster.axis import axis_link
from planner.cluster.link import Link
from planner.cluster.load import load_cluster
from planner.cluster.spec import ClusterSpec
from planner.cost.collective import collective_time_s
from scripts.published.rows import read_rows

__all__ = ["Point", "fit_fabrics", "main", "read_points"]

_GPUS = (("B200", "b200-sxm", "nvlink5"), ("H200", "h200-sxm", "nvlink4"),
         ("H100", "h100-sxm", "nvlink4"), ("A100", "a100-80g", "nvlink3"),
         ("V100", "v100-32g", "nvlink2"), ("MI200", "mi250x", "xgmi"))
_FABRICS = (("EFA v1", "efa-v1"), ("EFA v2", "efa-v2"), ("EFA v4", "efa-v4"),
            ("EFA", "efa-v2"), ("Omni-Path", "omni-path"), ("RoCE", "roce"),
            ("NDR", "infiniband-ndr"), ("400", "infiniband-ndr"),
            ("200", "infiniband-hdr"))
_KINDS = {"sendrecv (p2p)": "send"}
_FACTORS = {"all_reduce": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured collective.

    `fabric` names what is fitted on it: what joins the nodes, or what joins
    the devices of a node where there is only one.
    """

    source: str
    fabric: str
    kind: str
    ranks: int
    cluster: ClusterSpec
    size_bytes: float
    time_s: float
    held_out: bool


def read_points(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The points of all rows whose hardware and sizes are stated."""
    return [point for row in rows for point in _points(row)]


def _points(row: Mapping[str, Any]) -> Iterable[Point]:
    hardware = row["hardware"]
    kind = _KINDS.get(row.get("op", ""), row.get("op", ""))
    gpu = str(hardware.get("gpu", ""))
    known = [g for g in _GPUS if g[0] in gpu]
    if not known or not row.get("ranks") or not row.get("data"):
        return
    nodes = int(hardware.get("nodes", 1))
    _, preset, fabric = known[0]
    ranks = int(row["ranks"])
    per_node = int(hardware.get("gpus_per_node", max(ranks // nodes, 1)))
    cluster = load_cluster(preset).with_sizes(nodes, per_node)
    if nodes > 1:
        fabric, cluster = _between_nodes(
            cluster, str(hardware.get("inter_link", "NDR 400")))
    for entry in row["data"]:
        named = dict(zip(row["columns"], entry))
        size, time_s = _measured(named, kind, ranks)
        if size and time_s:
            digest = hashlib.sha256(f"{row['id']}:{size:.0f}".encode())
            yield Point(source=row["source"]["name"],
                        fabric=fabric,
                        kind=kind,
                        ranks=ranks,
                        cluster=cluster,
                        size_bytes=size,
                        time_s=time_s,
                        held_out=digest.digest()[0] % 5 == 0)


def _between_nodes(cluster: ClusterSpec, text: str) -> tuple[str, ClusterSpec]:
    """The fabric that `text` describes, at the rate that it states."""
    fabric = next((f for part, f in _FABRICS if part in text), "ethernet")
    outer = cluster.tiers[-1]
    stated = re.search(r"(\d+) x [^\d]*(\d+) ?(G|GB/s)", text)
    if stated:
        count, rate = int(stated[1]), float(stated[2]) * 1e9
        rate = rate if stated[3] == "GB/s" else rate / 8
        outer = replace(
            outer,
            link=replace(outer.link,
                         bandwidth_bytes_per_s=count * rate /
                         cluster.tiers[0].size,
                         links_per_device=count / cluster.tiers[0].size))
    return fabric, replace(cluster, tiers=(*cluster.tiers[:-1], outer))


def _measured(named: Mapping[str, float], kind: str,
              ranks: int) -> tuple[float, float]:
    """Size in bytes and time in seconds; zeros where either is unknown."""
    size = float(named.get("size_bytes", named.get("size_mb", 0) * 2**20))
    if "time_us" in named:
        return size, named["time_us"] * 1e-6
    if "time_s" in named:
        return size, named["time_s"]
    rate = named.get("busbw_GBps", 0) * 1e9
    moved = size * _FACTORS.get(kind, 1.0) * (ranks - 1) / ranks
    return size, moved / rate if rate else 0.0


def _predicted_s(point: Point, cluster: ClusterSpec) -> float:
    total = cluster.num_devices
    shape = (total // point.ranks, point.ranks)
    return collective_time_s(point.kind, point.size_bytes,
                             axis_link(cluster, shape, 1))


_FIELDS = ("latency_s", "overhead_s", "efficiency", "segment_s",
           "switch_reduction")
_START = (2e-6, 1.5e-5, 0.8, 5e-6, 0.7)
_LOW = (5e-7, 1e-6, 0.05, 1e-8, 0.05)
_HIGH = (1e-4, 5e-4, 1.0, 1e-3, 1.0)


def _with(cluster: ClusterSpec, tier: int,
          values: Mapping[str, float]) -> ClusterSpec:
    tiers = list(cluster.tiers)
    tiers[tier] = replace(tiers[tier], link=_changed(tiers[tier].link, values))
    return replace(cluster, tiers=tuple(tiers))


def _changed(link: Link, values: Mapping[str, float]) -> Link:
    return replace(link,
                   latency_s=values["latency_s"],
                   overhead_s=values["overhead_s"],
                   efficiency=values["efficiency"],
                   segment_s=values["segment_s"],
                   switch_reduction=values["switch_reduction"])


def fit_fabrics(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """Parameters per fabric, of nodes first and of what joins them then.

    Parameters
    ----------
    points : sequence of Point
        Those that are held out are left out.
    """
    fitted: dict[str, dict[str, float]] = {}
    inside = {f for _, _, f in _GPUS}
    names = sorted({p.fabric
                    for p in points},
                   key=lambda f: (f not in inside, f))
    for name in names:
        own = [p for p in points if p.fabric == name and not p.held_out]
        switches = name in ("nvlink4", "nvlink5")
        fitted[name] = _fit(own, fitted, 0 if name in inside else 1, switches)
    return fitted


def _fit(points: Sequence[Point], fitted: Mapping[str, Mapping[str, float]],
         tier: int, switches: bool) -> dict[str, float]:
    clusters = [inner_fitted(p, fitted) for p in points]

    def values(x: np.ndarray) -> dict[str, float]:
        found = dict(zip(_FIELDS, np.exp(x).tolist()))
        if not switches:
            found["switch_reduction"] = 0.0
        return found

    def residuals(x: np.ndarray) -> np.ndarray:
        found = values(x)
        return np.array([
            np.log(_predicted_s(p, _with(c, tier, found)) / p.time_s)
            for p, c in zip(points, clusters)
        ])

    solution = least_squares(residuals,
                             np.log(_START),
                             bounds=(np.log(_LOW), np.log(_HIGH)),
                             loss="soft_l1",
                             f_scale=0.2)
    return {k: float(f"{v:.3g}") for k, v in values(solution.x).items()}


def inner_fitted(point: Point,
                 fitted: Mapping[str, Mapping[str, float]]) -> ClusterSpec:
    """The point's cluster with its node as fitted before."""
    kind = next(f for part, p, f in _GPUS if point.cluster.name == p)
    if point.fabric == kind or kind not in fitted:
        return point.cluster
    return _with(point.cluster, 0, fitted[kind])


def _errors(points: Sequence[Point],
            fitted: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    table: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for point in points:
        cluster = inner_fitted(point, fitted)
        tier = 0 if point.cluster.tiers[-1].size == 1 else 1
        cluster = _with(cluster, tier, fitted[point.fabric])
        error = abs(_predicted_s(point, cluster) / point.time_s - 1)
        part = "test" if point.held_out else "train"
        key = (point.source, point.fabric, point.kind)
        table.setdefault(key, {"train": [], "test": []})[part].append(error)
    return {" | ".join(key): parts for key, parts in sorted(table.items())}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fit_collectives",
                                     description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    points = read_points(read_rows([args.file]))
    fitted = fit_fabrics(points)
    if args.json:
        sys.stdout.write(json.dumps(fitted, indent=2) + "\n")
        return 0
    for name, values in fitted.items():
        shown = "  ".join(f"{k}={v:g}" for k, v in values.items())
        sys.stdout.write(f"{name:16s} {shown}\n")
    sys.stdout.write("\nmean absolute error  train        test\n")
    every: dict[str, list[float]] = {"train": [], "test": []}
    for key, parts in _errors(points, fitted).items():
        cells = []
        for part in ("train", "test"):
            every[part] += parts[part]
            cells.append(_cell(parts[part]))
        sys.stdout.write(f"{'  '.join(cells)}  {key}\n")
    sys.stdout.write(f"{_cell(every['train'])}  {_cell(every['test'])}  all\n")
    return 0


def _cell(errors: Sequence[float]) -> str:
    if not errors:
        return f"{'-':>12s}"
    return f"{100 * float(np.mean(errors)):6.1f}% /{len(errors):4d}"


if __name__ == "__main__":
    sys.exit(main())
