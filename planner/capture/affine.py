"""Tensors known by a formula over their indices, whatever their size.

Masks and position ids are made of ``arange``, comparisons and broadcasts.
Instead of computing them (quadratic in the sequence), each is described
exactly: a number by an affine form of its indices, a truth value by the
comparisons that must hold. Dims are counted from the right (-1 is the
last), which makes broadcasting free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Affine", "Choice", "Formula", "Holds", "Unknown", "at_most"]


class Unknown(Exception):
    """The tensor has no formula of the kinds known here."""


@dataclass(frozen=True, slots=True)
class Affine:
    """``constant + sum(step * index[dim])``; exact numbers.

    `terms` holds (dim, step) with no zero step, sorted by dim.
    """

    constant: int | float
    terms: tuple[tuple[int, int | float], ...] = ()

    @staticmethod
    def of(constant: int | float, terms: Mapping[int, int | float]) -> Affine:
        return Affine(constant,
                      tuple(sorted((d, s) for d, s in terms.items() if s)))

    def plus(self, other: Affine, factor: int | float = 1) -> Affine:
        terms = dict(self.terms)
        for dim, step in other.terms:
            terms[dim] = terms.get(dim, 0) + factor * step
        return Affine.of(self.constant + factor * other.constant, terms)

    def times(self, factor: int | float) -> Affine:
        return Affine(0).plus(self, factor)

    def bounds(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Least and greatest value over a shape."""
        low = high = self.constant
        for dim, step in self.terms:
            end = step * (shape[dim] - 1)
            low, high = low + min(0, end), high + max(0, end)
        return low, high


@dataclass(frozen=True, slots=True)
class Holds:
    """True where every form is at most 0; with no form, everywhere.

    `never` is for what is false everywhere.
    """

    forms: frozenset[Affine] = field(default=frozenset())
    never: bool = False

    @property
    def always(self) -> bool:
        return not self.forms and not self.never

    def both(self, other: Holds) -> Holds:
        if self.never or other.never:
            return Holds(never=True)
        return Holds(self.forms | other.forms)

    def either(self, other: Holds) -> Holds:
        if self.never or other.always or self == other:
            return other
        if other.never or self.always:
            return self
        raise Unknown

    def negated(self) -> Holds:
        if not self.forms:
            return Holds(never=not self.never)
        if len(self.forms) > 1:
            raise Unknown
        form, = self.forms
        return Holds(frozenset({form.times(-1).plus(Affine(1))}))


@dataclass(frozen=True, slots=True)
class Choice:
    """`yes` where the condition holds, else `no`."""

    condition: Holds
    yes: float
    no: float


Formula = Affine | Holds | Choice


def at_most(form: Affine, shape: Iterable[int]) -> Holds:
    """Where ``form <= 0``, decided outright if it is the same everywhere.

    Parameters
    ----------
    form : Affine
        Of whole numbers: negation counts on steps of one.
    shape : iterable of int
        Of the tensor whose elements it gives.

    Raises
    ------
    Unknown
        For a form of other numbers.
    """
    numbers = (form.constant, *(step for _, step in form.terms))
    if form.terms and not all(float(n).is_integer() for n in numbers):
        raise Unknown
    low, high = form.bounds(tuple(shape))
    if high <= 0:
        return Holds()
    if low > 0:
        return Holds(never=True)
    return Holds(frozenset({form}))
