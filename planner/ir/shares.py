"""Unequal shares of the batch over an axis of the mesh.

Devices of different speed that divide a batch evenly wait for the slowest.
With shares of 3 and 1 over an axis of two ranks, the first computes with
three quarters of every value that is divided over the axis. A shard of a
value then is a run of places as long as its rank's share; parameters at
rest are divided evenly as ever.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from planner.ir.mesh import MeshSpec

__all__ = [
    "Shares", "check_shares", "divisors", "lengths", "reduced", "rank_shares",
    "shares_text"
]

Shares = Mapping[str, tuple[int, ...]]
"""By axis, what each of its ranks gets, in proportion."""


def reduced(shares: Sequence[int]) -> tuple[int, ...]:
    """The same proportions in least numbers.

    Examples
    --------
    >>> reduced([6, 2])
    (3, 1)
    """
    unit = math.gcd(*shares)
    return tuple(s // unit for s in shares)


def shares_text(shares: Sequence[object]) -> str:
    """In words, with equal neighbours together.

    Examples
    --------
    >>> shares_text([3, 3, 1])
    '2 x 3 : 1'
    """
    runs = [(s, len(list(same))) for s, same in itertools.groupby(shares)]
    return " : ".join(f"{n} x {s}" if n > 1 else f"{s}" for s, n in runs)


def check_shares(shares: Shares, mesh: MeshSpec) -> None:
    """Hold shares against the mesh they are of.

    Raises
    ------
    ValueError
        For an axis that the mesh does not have, too few shares or many,
        and such as are not positive.
    """
    for axis, parts in shares.items():
        if len(parts) != mesh.size(axis):
            raise ValueError(
                f"shares over {axis}: {len(parts)} for {mesh.size(axis)} "
                "ranks; give one for each")
        if min(parts) < 1:
            raise ValueError(
                f"shares over {axis}: {list(parts)}; every rank computes "
                "something, so give whole numbers from 1")


def rank_shares(shares: Shares, mesh: MeshSpec) -> tuple[tuple[int, ...], ...]:
    """For each axis its ranks' shares; none where they are equal."""
    return tuple(
        parts if len(set(parts := reduced(shares.get(n, (1, ))))) > 1 else ()
        for n in mesh.names)


def divisors(mesh: MeshSpec, shares: Shares,
             coordinate: Sequence[int]) -> tuple[int | Fraction, ...]:
    """What divides a dim of a value, along each axis, at one place.

    Parameters
    ----------
    mesh : MeshSpec
    shares : mapping of str to tuple of int
        What ranks get along an axis, in proportion; axes that are not named
        are divided evenly.
    coordinate : sequence of int
        Of a rank, along each axis.

    Returns
    -------
    tuple of int or Fraction

    Examples
    --------
    >>> mesh = MeshSpec(("dp", "tp"), (2, 2))
    >>> divisors(mesh, {"dp": (3, 1)}, (0, 1))
    (Fraction(4, 3), 2)
    """
    return tuple(
        Fraction(sum(parts), parts[place]) if parts else size
        for size, parts, place in zip(
            mesh.sizes, rank_shares(shares, mesh), coordinate, strict=True))


def lengths(size: int, shares: Sequence[int]) -> list[int]:
    """How many places of a dim each rank has.

    Raises
    ------
    ValueError
        When they would be no whole numbers.

    Examples
    --------
    >>> lengths(8, (3, 1))
    [6, 2]
    """
    unit, rest = divmod(size, sum(shares))
    if rest:
        raise ValueError(
            f"a dim of {size} does not divide in shares of "
            f"{':'.join(map(str, shares))}; their sum must divide it")
    return [s * unit for s in shares]
