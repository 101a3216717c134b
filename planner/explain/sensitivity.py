"""What the step would take if the cluster or the batch were another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from planner.candidate import Candidate
from planner.cluster.spec import ClusterSpec, DeviceKind, Tier
from planner.ir.errors import LayoutError, ScheduleError
from planner.planning import Planning
from planner.variation import repriced

__all__ = ["sensitivity"]

_CONSIDERED = 8
"""Candidates that are priced again, the best first."""
_BANDWIDTH = 2
_MEMORY_PERCENT = 20
_HALF = "half the batch"


def sensitivity(planning: Planning,
                chosen: Candidate,
                found: Sequence[Candidate],
                *,
                halved: Planning | None = None) -> list[dict[str, Any]]:
    """Rows of one change each, and what it does to the step.

    The chosen plan is priced again as it is, and the choice among the best
    candidates is made again; nothing is searched anew.

    Parameters
    ----------
    planning : Planning
    chosen : Candidate
    found : sequence of Candidate
        What was considered, best first.
    halved : Planning, optional
        Of the same model on half the batch.
    """
    others = [c for c in found if c is not chosen][:_CONSIDERED - 1]
    rows = []
    for tier in _crossed(planning.cluster, chosen.mesh.world_size):
        faster = planning.copied(cluster=_faster(planning.cluster, tier))
        rows.append(
            _row(f"{_BANDWIDTH}x bandwidth of tier {tier.name}", faster,
                 repriced(faster, [chosen, *others])))
    rows.append(
        _row(f"{_MEMORY_PERCENT}% more memory", _roomier(planning),
             [chosen, *(c for c in found if c is not chosen)]))
    if halved is not None:
        rows += _half(planning, chosen, halved)
    return rows


def _crossed(cluster: ClusterSpec, ranks: int) -> list[Tier]:
    """Tiers that a mesh of so many ranks uses."""
    below = (1, *cluster.unit_sizes())
    return [t for t, unit in zip(cluster.tiers, below) if ranks > unit]


def _faster(cluster: ClusterSpec, tier: Tier) -> ClusterSpec:
    link = dataclasses.replace(tier.link,
                               bandwidth_bytes_per_s=_BANDWIDTH *
                               tier.link.bandwidth_bytes_per_s)
    return dataclasses.replace(
        cluster,
        tiers=tuple(
            dataclasses.replace(t, link=link) if t is tier else t
            for t in cluster.tiers))


def _roomier(planning: Planning) -> Planning:
    """With more memory on every device, or a higher limit."""
    percent = 100 + _MEMORY_PERCENT

    def larger(device: DeviceKind) -> DeviceKind:
        size = int(device.memory_bytes) * percent // 100
        return dataclasses.replace(device, memory_bytes=size)

    cluster, given = planning.cluster, planning.limits.given_bytes
    return planning.copied(cluster=dataclasses.replace(
        cluster,
        device=larger(cluster.device),
        others=tuple(
            dataclasses.replace(g, device=larger(g.device))
            for g in cluster.others)),
                           memory_limit_bytes=given and given * percent // 100)


def _row(change: str, planning: Planning,
         candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The first candidate is the chosen one."""
    chosen, best = candidates[0], min(candidates, key=planning.rank)
    return {
        "change": change,
        "step_s": chosen.time_s,
        "memory_bytes": chosen.memory.total,
        "fits": planning.fits(chosen),
        "best_plan": best.name,
        "best_step_s": best.time_s,
        "reason": "",
    }


def _half(planning: Planning, chosen: Candidate,
          halved: Planning) -> Iterator[dict[str, Any]]:
    try:
        again = halved.of_plan(planning.plan_of(chosen))
    except (LayoutError, ScheduleError) as error:
        yield {
            **_row(_HALF, planning, [chosen]), "step_s": None,
            "memory_bytes": None,
            "fits": False,
            "reason": f"not with this plan: {error}"
        }
    else:
        yield _row(_HALF, halved, [again])
