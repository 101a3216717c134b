"""Errors of predictions, by group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

__all__ = ["ErrorSummary", "Spread", "held_out", "spread", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Absolute relative errors of a group, as shares of the measured."""

    count: int
    mean: float
    median: float
    p90: float
    rank_correlation: float

    def __str__(self) -> str:
        rank = ("    -" if np.isnan(self.rank_correlation) else
                f"{self.rank_correlation:5.3f}")
        return (f"{self.count:5d} {100 * self.mean:7.1f}% "
                f"{100 * self.median:7.1f}% {100 * self.p90:7.1f}%   {rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far apart runs are that state the same.

    Parameters
    ----------
    count : int
        Of them.
    mean, largest : float
        How far they are from the mean of those that state the same, as a
        share of this. No model that knows what is stated errs by less.
    """

    count: int
    mean: float
    largest: float

    def __str__(self) -> str:
        return (f"{self.count:5d} {100 * self.mean:7.1f}% "
                f"{100 * self.largest:7.1f}%")


def held_out(source: str, name: str) -> bool:
    """Whether a row is kept out of every fit: a fifth, by a hash."""
    digest = hashlib.sha256(f"{source}:{name}".encode()).digest()
    return digest[0] % 5 == 0


def summarise(predicted: Sequence[float],
              measured: Sequence[float]) -> ErrorSummary:
    """Summarise one group; at least one pair."""
    guess, truth = np.asarray(predicted), np.asarray(measured)
    errors = np.abs(guess / truth - 1)
    varied = min(len(set(truth.tolist())), len(set(guess.tolist()))) > 2
    rank = float(spearmanr(guess, truth)[0]) if varied else float("nan")
    return ErrorSummary(count=len(errors),
                        mean=float(errors.mean()),
                        median=float(np.median(errors)),
                        p90=float(np.quantile(errors, 0.9)),
                        rank_correlation=rank)


def spread(groups: Iterable[Sequence[float]]) -> Spread | None:
    """Of measured times, by what is stated; None where nothing was measured
    more than once."""
    apart = [
        abs(time / float(np.mean(group)) - 1) for group in groups
        if len(group) > 1 for time in group
    ]
    return Spread(count=len(apart),
                  mean=float(np.mean(apart)),
                  largest=max(apart)) if apart else None
