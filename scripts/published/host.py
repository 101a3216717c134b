"""What the host takes in Megatron-LM's own tests, fitted on their times.

Two numbers, for all tests and devices together: by how much longer modules
of Megatron Core take the host than the runs that ``dispatch_s`` is fit on,
and what it does once a step while the devices wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from scripts.published.batch import Batch
from scripts.published.case import Case, Unreadable
from scripts.published.errors import held_out
from scripts.published.fit import softened
from scripts.published.read import read_case
from scripts.published.words import is_test

__all__ = ["HostNumbers", "fit_host", "host_cases"]

_USUAL = (1.0, 0.01)
_FAMILIES = ("a100", "h100")
"""Tests on nodes of other devices vary five times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNumbers:
    """See the fields of that name of
    :class:`planner.cost.analytic.configurations.Configurations`."""

    host_factor: float
    step_host_s: float
    rows: int

    def __str__(self) -> str:
        return (f"host_factor={self.host_factor:.3g}  "
                f"step_host_s={self.step_host_s:.3g}  of {self.rows} tests")


def host_cases(rows: Sequence[Mapping[str, Any]]) -> list[Case]:
    """The tests on A100 and H100 whose time was measured, without those
    that are kept out."""
    found = []
    for row in rows:
        if not is_test(row):
            continue
        try:
            case = read_case(row)
        except Unreadable:
            continue
        if (case.measured_s and case.preset.startswith(_FAMILIES)
                and not held_out(case.source, case.id)):
            found.append(case)
    return found


def fit_host(cases: Sequence[Case]) -> HostNumbers:
    """Least squares of log time, large errors counting linearly.

    Parameters
    ----------
    cases : sequence of Case
        At least two.
    """
    batch = Batch.of(cases)
    measured = np.array([c.measured_s for c in cases])

    def residuals(x: np.ndarray) -> np.ndarray:
        factor, step_s = np.exp(x)
        plans = replace(batch.plans, host_factor=factor, step_host_s=step_s)
        times_s = replace(batch, plans=plans).times().time_s
        return softened(np.log(times_s / measured))

    factor, step_s = np.exp(least_squares(residuals, np.log(_USUAL)).x)
    return HostNumbers(host_factor=float(factor),
                       step_host_s=float(step_s),
                       rows=len(cases))
