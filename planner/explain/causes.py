"""Why one plan takes longer than another, in seconds by cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.candidate import Candidate
from planner.explain.communication import exposures, spent_by_axis
from planner.units import format_bytes, format_time

__all__ = [
    "bubble_s", "copies_s", "delta", "parts", "signed", "waiting_s", "why"
]

_NOTABLE, _NOTABLE_S = 1e-3, 1e-6
"""Part of a step, and time, either of which makes a difference be named."""
_ROUNDING = 1e-9
"""Part of a step that sums in another order may differ by."""
_TOLD = 4
"""Causes of a difference that are named, the largest first."""


def bubble_s(candidate: Candidate) -> float:
    """The mean time for which a pipeline's rank has nothing to do, however
    quick messages between stages are, and nothing that is done once a step
    either."""
    step = candidate.step
    return 0.0 if step is None else max(
        0.0, min(step.bubble_s -
                 step.exposed_messages_s, waiting_s(candidate)))


def delta(chosen: Candidate, other: Candidate) -> dict[str, float]:
    """Why `other` takes longer than `chosen`, in seconds by cause.

    They add up to the difference of the two steps. *Uneven ranks* is what
    the slowest rank of a pipeline takes beyond the mean of all.
    """
    mine, theirs = parts(chosen), parts(other)
    return {
        cause: theirs.get(cause, 0.0) - mine.get(cause, 0.0)
        for cause in dict.fromkeys((*mine, *theirs))
    }


def parts(candidate: Candidate) -> dict[str, float]:
    """A step in parts that add up to it."""
    price, idle_s = candidate.price, bubble_s(candidate)
    own = {
        "compute": price.compute_s - price.recompute_s,
        "forward again": price.recompute_s,
        "optimizer": candidate.optimizer_s,
    }
    step = price.step
    assert step is not None
    shared = {
        "waiting for the last rank": step.straggling_s,
        "slowed by messages": step.interference_s,
        "waiting for the host": step.host_s,
        "around the blocks": step.around_s,
        **{
            f"communication {axis}": exposed_s
            for axis, (_, exposed_s) in sorted(
                spent_by_axis(candidate).items())
        }
    }
    own["local copies"] = copies_s(candidate)
    if candidate.step is None:
        return own | shared
    return {
        **own, "bubble": idle_s,
        "uneven ranks": waiting_s(candidate) - idle_s,
        **shared
    }


def waiting_s(candidate: Candidate) -> float:
    """What a pipeline's step takes beyond the work and the messages of the
    mean rank."""
    step = candidate.price.step
    if candidate.step is None or step is None:
        return 0.0
    price = candidate.price
    exposed_s = sum(e.exposed_s for e in exposures(candidate))
    left_s = (step.time_s - price.compute_s - copies_s(candidate) - exposed_s -
              step.straggling_s - step.interference_s - step.host_s -
              step.around_s)
    return 0.0 if abs(left_s) <= _ROUNDING * step.time_s else left_s


def copies_s(candidate: Candidate) -> float:
    """Copies that stay on a rank, of a pipeline the mean rank; packing what
    travels together is one, and so is adding gradients to those of earlier
    micro-batches."""
    price, step = candidate.price, candidate.price.step
    if step is None:
        return price.local_s
    worked_s = (step.time_s - step.around_s if candidate.step is None else
                candidate.step.busy_s + candidate.step.late_s)
    return max(
        0.0, worked_s - price.compute_s - step.exposed_s - step.straggling_s -
        step.interference_s - step.host_s)


def signed(seconds: float) -> str:
    """A difference with its sign.

    Examples
    --------
    >>> signed(-0.002), signed(0.0)
    ('-2 ms', '+0 s')
    """
    return f"{'-' if seconds < 0 else '+'}{format_time(abs(seconds))}"


def why(other: Mapping[str, Any]) -> str:
    """Why an alternative was not chosen, by cause."""
    causes = []
    notable_s = min(_NOTABLE_S, _NOTABLE * other["step_s"])
    if other["memory_excess_bytes"]:
        causes.append(
            f"{format_bytes(other['memory_excess_bytes'])} too much memory")
    for cause, seconds in sorted(other["delta_s"].items(),
                                 key=lambda kv: (-abs(kv[1]), kv[0])):
        if abs(seconds) >= notable_s and len(causes) < _TOLD:
            causes.append(f"{cause} {signed(seconds)}")
    return ", ".join(causes) or "the same cost; the order of names decided"
