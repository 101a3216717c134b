"""The order of samples in an epoch, without a list of it.

A permutation of any length is computed place by place: a Feistel network
permutes the numbers below a power of four, and a number that falls outside
of the length is sent through it again until it falls inside ("cycle
walking": J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains,
CT-RSA 2002). So a billion samples cost no memory, and a run that resumes
in the middle of an epoch skips nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["key_of", "shuffled"]

_ROUNDS = 6

Places = NDArray[np.uint64]


def shuffled(places: NDArray[np.int64], *, length: int, seed: int,
             epoch: int) -> NDArray[np.int64]:
    """Which samples stand at some places of an epoch.

    Parameters
    ----------
    places : array of int64
        Each from 0 to `length` - 1.
    length : int
        Of the epoch, in samples.
    seed, epoch : int
        Every pair has an order of its own.

    Returns
    -------
    array of int64
        Of the shape of `places`; over all places, each sample once.

    Examples
    --------
    >>> order = shuffled(np.arange(5), length=5, seed=0, epoch=0)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
    """
    half = max(1, (max(length - 1, 1).bit_length() + 1) // 2)
    keys = mixed(np.arange(_ROUNDS, dtype=np.uint64), salt=key_of(seed, epoch))
    found = places.astype(np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        found[outside] = _network(found[outside], half, keys)
        outside = found >= length
    return found.astype(np.int64)


def _network(numbers: Places, half: int, keys: Places) -> Places:
    """A permutation of the numbers below ``2 ** (2 * half)``."""
    mask = np.uint64((1 << half) - 1)
    left, right = numbers >> np.uint64(half), numbers & mask
    for key in keys:
        left, right = right, left ^ (mixed(right, salt=int(key)) & mask)
    return (left << np.uint64(half)) | right


def mixed(numbers: Places, *, salt: int) -> Places:
    """Numbers that look random (splitmix64, G. Steele et al. 2014)."""
    start = _finalised(np.array([salt % (1 << 64)], np.uint64))
    return _finalised(numbers ^ start)


def _finalised(z: Places) -> Places:
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_of(*numbers: int) -> int:
    """One number of 63 bits for several, in their order.

    Examples
    --------
    >>> key_of(0, 1) != key_of(1, 0)
    True
    """
    key = 0
    for number in numbers:
        key = int(
            mixed(np.array([number % (1 << 64)], np.uint64), salt=key)[0])
    return key >> 1
