"""Checks that the parts of a cluster share."""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["Sourced", "check_number", "source_of"]


class Sourced(Protocol):
    """Something whose numbers have sources."""

    @property
    def source(self) -> str:
        ...

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        ...


def check_number(where: str, what: str, value: float, *, minimum: float,
                 strict: bool) -> None:
    """Refuse numbers that are not finite or too small.

    Raises
    ------
    ValueError
        That names the place, the number and the bound.
    """
    bad = value <= minimum if strict else value < minimum
    if not math.isfinite(value) or bad:
        bound = "greater than" if strict else "at least"
        raise ValueError(f"{where}: {what} must be a finite number "
                         f"{bound} {minimum:g}, got {value:g}")


def source_of(sourced: Sourced, field: str) -> str:
    """The source of one field: its own, else that of all."""
    return dict(sourced.sources).get(field, sourced.source)
