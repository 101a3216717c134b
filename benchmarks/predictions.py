"""A table of predicted and measured step times and memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "format_rows", "within"]

_NEAR = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model under one plan.

    `pace` is what kernels took while it ran, over what they did when the
    machine was profiled, and `paced_s` what is predicted with that in mind.
    """

    ranks: int
    model: str
    plan: str
    predicted_s: float
    measured_s: float
    predicted_bytes: int = 0
    measured_bytes: int = 0
    pace: float = 1.0
    paced_s: float = 0.0

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1

    @property
    def steady_error(self) -> float:
        """The same, of what is predicted at the machine's pace."""
        return self.paced_s / self.measured_s - 1

    @property
    def memory_error(self) -> float:
        """The same of the peak of memory."""
        return self.predicted_bytes / max(self.measured_bytes, 1) - 1


def within(rows: Sequence[Row], near: float = _NEAR) -> dict[str, bool]:
    """Per model and ranks: is the plan that is predicted best near the best?

    Plans with one prediction, to the last digit, are one program under
    several names, and count by the mean of their times. Sets of one plan
    are left out.
    """
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(f"{row.model} on {row.ranks}", []).append(row)
    found = {}
    for name, own in sets.items():
        times_s: dict[float, list[float]] = {}
        for row in own:
            times_s.setdefault(row.predicted_s, []).append(row.measured_s)
        means_s = {p: statistics.mean(each) for p, each in times_s.items()}
        if len(means_s) > 1:
            chosen_s = means_s[min(means_s)]
            found[name] = chosen_s <= (1 + near) * min(means_s.values())
    return found


def format_rows(rows: Sequence[Row]) -> str:
    """Each pair, the median error, and how good the predicted best is."""
    lines = [
        "ranks  model     plan             predicted    measured    error"
        "   memory    error"
    ]
    lines += [
        f"{r.ranks:5d}  {r.model:8s}  {r.plan:14s}  "
        f"{1e3 * r.predicted_s:7.2f} ms  {1e3 * r.measured_s:7.2f} ms  "
        f"{100 * r.error:+6.1f}%  {r.measured_bytes / 2**20:6.1f} MiB  "
        f"{100 * r.memory_error:+6.1f}%" for r in rows
    ]
    for what, errors in (("time", [abs(r.error) for r in rows
                                   ]), ("time at the machine's pace",
                                        [abs(r.steady_error) for r in rows]),
                         ("memory", [abs(r.memory_error) for r in rows])):
        lines.append(f"{what}: median error "
                     f"{100 * statistics.median(errors):.1f}%, largest "
                     f"{100 * max(errors):.1f}% of {len(rows)} pairs")
    lines += [
        f"{name}: kernels took {pace:.2f} of what they did when profiled"
        for name, pace in {
            f"{r.model} on {r.ranks}": r.pace
            for r in rows
        }.items()
    ]
    near = within(rows)
    for name, good in near.items():
        verdict = "" if good else "not "
        lines.append(f"{name}: the predicted best is {verdict}within 3% of "
                     "the measured best")
    if near:
        lines.append(f"predicted best within 3%: {sum(near.values())} of "
                     f"{len(near)}")
    return "\n".join(lines) + "\n"
