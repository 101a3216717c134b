"""What the report says of devices of several kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from planner.candidate import Candidate
from planner.planning import Planning
from planner.units import format_bytes

__all__ = ["devices_report", "devices_text"]


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


def devices_text(report: dict[str, Any]) -> Iterator[str]:
    """Nothing where all devices are alike."""
    if len(report["devices"]) == 1:
        return
    yield "devices: " + ", then ".join(
        f"{d['ranks']} x {d['device']} ({format_bytes(d['limit_bytes'])})"
        for d in report["devices"])
    together = _together(report)
    if together:
        yield (f"  {together} on devices of several kinds, which do the same "
               "in step: the slowest")
        yield ("  sets the pace, the smallest the memory; shares of the batch "
               "are equal on all")


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
