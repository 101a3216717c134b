"""What the report says of devices of several kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from planner.candidate import Candidate
from planner.ir.shares import shares_text
from planner.planning import Planning
from planner.units import format_bytes, format_time

__all__ = ["devices_report", "devices_text", "shares_report"]


def devices_report(planning: Planning,
                   chosen: Candidate) -> list[dict[str, Any]]:
    """The kinds of device of the mesh, in the order of the ranks."""
    cluster = planning.cluster
    ranks = range(chosen.mesh.world_size)
    kinds = Counter(map(cluster.device_of, ranks))
    return [{
        "device": kind.name,
        "ranks": count,
        "limit_bytes": planning.limits.on(kind)
    } for kind, count in kinds.items()]


def shares_report(planning: Planning,
                  chosen: Candidate) -> list[dict[str, Any]]:
    """Where shares of the batch are unequal, those along their axis."""
    return [{
        "axis": " x ".join(chosen.layout.shares),
        "share": " x ".join(map(str, rank.shares)),
        "device": rank.device.name,
        "part": rank.part,
        "time_s": rank.price.step_s,
        "memory_bytes": rank.memory.total,
        "limit_bytes": planning.limits.on(rank.device)
    } for rank in chosen.shared]


def devices_text(report: dict[str, Any]) -> Iterator[str]:
    """Nothing where all devices are alike."""
    if len(report["devices"]) == 1:
        return
    yield "devices: " + ", then ".join(
        f"{d['ranks']} x {d['device']} ({format_bytes(d['limit_bytes'])})"
        for d in report["devices"])
    if report["shares"]:
        yield from _shares(report)
    elif together := _together(report):
        yield (f"  {together} on devices of several kinds, which do the same "
               "in step: the slowest")
        yield ("  sets the pace, the smallest the memory; shares of the batch "
               "are equal on all")


def _shares(report: dict[str, Any]) -> Iterator[str]:
    """One line for all ranks that have the same."""
    shares = report["shares"]
    yield (f"  shares of the batch over {shares[0]['axis']}: "
           f"{shares_text([s['share'] for s in shares])}")
    alike = Counter((s["device"], s["part"], s["time_s"], s["memory_bytes"])
                    for s in shares)
    for (device, part, time_s, size_bytes), count in alike.items():
        each = f"{count} x " if count > 1 else ""
        yield (f"    {each}{device}: {part:.1%} of it, forward and backward "
               f"{format_time(time_s)}, {format_bytes(size_bytes)}")


def _together(report: dict[str, Any]) -> str:
    """What runs on several kinds at once."""
    if report["pipeline"] is None:
        return "every layer is"
    names = {d["device"] for d in report["devices"]}
    mixed = [
        str(s["stage"]) for s in report["pipeline"]["stages"]
        if s["device"] not in names
    ]
    if not mixed:
        return ""
    word, verb = ("stage", "is") if len(mixed) == 1 else ("stages", "are")
    return f"{word} {', '.join(mixed)} {verb}"
