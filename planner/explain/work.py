"""What a step gets done, and how well devices are used for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from planner.candidate import Candidate
from planner.objective import step_work
from planner.planning import Planning
from planner.units import format_number

__all__ = ["work_report", "work_text"]


def work_report(planning: Planning, chosen: Candidate) -> dict[str, Any]:
    """Work of a step, its rate, and the share of the devices' peak.

    Counted are the products of the model, once forward and backward: what
    runs again and what ranks repeat is not.
    """
    work, devices = step_work(planning.program), chosen.mesh.world_size
    return {
        "unit":
        work.unit,
        "count":
        work.count,
        "rate":
        work.rate(chosen.time_s, devices),
        "peak_share":
        _at_peak_s(planning, devices) / devices / max(chosen.time_s, 1e-30),
    }


def _at_peak_s(planning: Planning, devices: int) -> float:
    """Seconds of one device for all products of a step, at the mean peak."""
    counts = planning.facts.counts
    kinds = Counter(map(planning.cluster.device_of, range(devices)))

    def peak(dtype: torch.dtype) -> float:
        return sum(n * k.peak(dtype) for k, n in kinds.items()) / devices

    return sum(counts[name] *
               (known.work.forward_flops + known.work.backward_flops) /
               peak(known.dtype)
               for name, calls in planning.facts.known_calls.items()
               for known in calls)


def work_text(report: dict[str, Any]) -> Iterator[str]:
    """One line."""
    work = report["work"]
    yield (f"{work['count']:,} {work['unit']} a step, "
           f"{format_number(work['rate'])} {work['unit']}/s per device, "
           f"{work['peak_share']:.1%} of the devices' peak")
