"""Least squares of logarithms, for numbers of unknown size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

__all__ = ["Unknown", "fit_log"]

_PULL = 0.02
"""Weight of the start: it decides only what no point tells."""
_ROBUST = 0.3
"""Errors of the log beyond this count less than their square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A positive number to be fitted."""

    name: str
    start: float
    low: float
    high: float


def fit_log(unknowns: Sequence[Unknown],
            predict: Callable[[Mapping[str, float]], Sequence[float]],
            measured: Sequence[float]) -> dict[str, float]:
    """Numbers for which predictions and measurements differ least.

    Parameters
    ----------
    unknowns : sequence of Unknown
    predict : callable
        From values by name to seconds, all positive, in the order of
        `measured`.
    measured : sequence of float
        Seconds.

    Returns
    -------
    dict of str to float

    Examples
    --------
    >>> rate = Unknown(name="rate", start=1.0, low=1e-3, high=1e3)
    >>> found = fit_log([rate], lambda v: [10 / v["rate"]], [0.1])
    >>> round(found["rate"])
    100
    """
    start = np.log([u.start for u in unknowns])
    logs = np.log(np.asarray(measured, dtype=float))

    def values(x: np.ndarray) -> dict[str, float]:
        found = np.exp(x).tolist()
        return {u.name: v for u, v in zip(unknowns, found, strict=True)}

    def residuals(x: np.ndarray) -> np.ndarray:
        errors = np.log(predict(values(x))) - logs
        return np.concatenate([errors, _PULL * (x - start)])

    if not unknowns or not len(logs):
        return values(start)
    solution = least_squares(residuals,
                             start,
                             bounds=(np.log([u.low for u in unknowns]),
                                     np.log([u.high for u in unknowns])),
                             loss="soft_l1",
                             f_scale=_ROBUST)
    return values(solution.x)
