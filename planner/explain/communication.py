"""Communication of a plan, that between stages of a pipeline included.

All of it is of one rank; of a pipeline, of the mean rank.
"""

from __future__ import annotations

import dataclasses

from planner.candidate import Candidate
from planner.cost.plan_price import Exposure

__all__ = ["bytes_by_axis", "exposures", "spent_by_axis", "spent_by_place"]


def exposures(candidate: Candidate) -> tuple[Exposure, ...]:
    """Every collective, and the messages between stages."""
    step = candidate.price.step
    return (*(step.exposures if step else ()), *_sent(candidate))


def spent_by_axis(candidate: Candidate) -> dict[str, tuple[float, float]]:
    """Per axis: seconds of its messages, and of those that are exposed."""
    step = candidate.price.step
    if step is None:
        return {n: (t, t) for n, (_, t) in candidate.price.by_axis().items()}
    return dataclasses.replace(step, exposures=exposures(candidate)).by_axis()


def spent_by_place(
        candidate: Candidate) -> dict[tuple[str, str], tuple[float, float]]:
    """Per place in the step and axis: seconds, and of those exposed ones.

    Over all places they are those of :func:`spent_by_axis`.
    """
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for e in exposures(candidate):
        time_s, exposed_s = found.get((e.where, e.axis), (0.0, 0.0))
        found[e.where, e.axis] = time_s + e.time_s, exposed_s + e.exposed_s
    return found


def bytes_by_axis(candidate: Candidate) -> dict[str, float]:
    """Per axis: what all of its messages move together."""
    found = {n: size for n, (size, _) in candidate.price.by_axis().items()}
    for e in _sent(candidate):
        found[e.axis] = found.get(e.axis, 0.0) + e.size_bytes * e.count
    return found


def _sent(candidate: Candidate) -> list[Exposure]:
    if candidate.step is None or candidate.pipeline is None:
        return []
    sent = candidate.step.sent(candidate.pipeline.axis)
    return [sent] if sent.count else []
