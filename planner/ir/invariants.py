"""Verifiers as tables: what must hold, how to find what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from planner.ir.errors import LayoutError

__all__ = ["Invariant", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """One row of a verifier.

    Parameters
    ----------
    name : str
        What holds, as a sentence without its full stop.
    broken : callable
        Subject to descriptions of the places where it does not hold.
    hint : str
        What to try.
    """

    name: str
    broken: Callable[[Any], Iterator[str]]
    hint: str


def check(table: Sequence[Invariant], subject: Any) -> None:
    """Check the rows in order.

    Raises
    ------
    LayoutError
        At the first place where a row does not hold.

    Examples
    --------
    >>> row = Invariant(name="numbers are even", hint="double it",
    ...                 broken=lambda s: (str(x) for x in s if x % 2))
    >>> check([row], [2, 4])
    >>> check([row], [2, 3])
    Traceback (most recent call last):
    ...
    planner.ir.errors.LayoutError: numbers are even, but: 3; double it
    """
    for invariant in table:
        for place in invariant.broken(subject):
            raise LayoutError(
                f"{invariant.name}, but: {place}; {invariant.hint}")
