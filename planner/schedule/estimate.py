"""Closed forms of the named schedules, over arrays of candidates at once.

For equal stages and a backward that is both of its parts. Published bubbles
(papers in `planner.schedule.flush` and `vshape`) are the cases that hold
where times are equal; these are for any times, found as the longest of a
few paths, and held against the simulator in the tests. What isn't known
exactly is a lower bound and is marked as such, so a search may discard by
it. A message takes the same time on every edge between ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.ir.errors import ScheduleError

__all__ = ["Estimate", "estimate", "peak_in_flight"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Makespans of candidates.

    Parameters
    ----------
    time_s : array of float
        Seconds from the first start to the last end, or a lower bound.
    is_exact : array of bool
        Whether it is exact.
    """

    time_s: Array
    is_exact: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Case:
    """Arrays of one shape: numbers, and seconds of one stage."""

    p: Array
    m: Array
    v: Array
    f: Array
    i: Array
    w: Array
    c: Array

    @property
    def b(self) -> Array:
        return self.i + self.w

    @property
    def whole_rounds(self) -> NDArray[np.bool_]:
        return (self.m % self.p == 0) | (self.m < self.p)

    @property
    def round_size(self) -> Array:
        """Micro-batches of the first round."""
        return np.ceil(self.m / np.maximum(self.m // self.p, 1))


def estimate(name: str,
             *,
             ranks: ArrayLike,
             microbatches: ArrayLike,
             chunks: ArrayLike = 1,
             forward_s: ArrayLike = 1.0,
             input_s: ArrayLike = 1.0,
             weight_s: ArrayLike = 1.0,
             p2p_s: ArrayLike = 0.0) -> Estimate:
    """Makespans of a named schedule for arrays of numbers and times.

    Parameters
    ----------
    name : str
        A published schedule.
    ranks, microbatches, chunks : array of int
        They broadcast against each other and against the times.
    forward_s, input_s, weight_s : array of float
        Seconds of ``F``, ``I`` and ``W`` of one stage; ``B`` takes as long
        as both of its parts.
    p2p_s : array of float
        Seconds of a message from rank to rank.

    Raises
    ------
    ScheduleError
        For a name without closed form.

    Examples
    --------
    >>> estimate("1f1b", ranks=4, microbatches=[4, 8]).time_s.tolist()
    [21.0, 33.0]
    """
    case = _case(ranks, microbatches, chunks, forward_s, input_s, weight_s,
                 p2p_s)
    time_s, is_exact = _form(name)[0](case)
    return Estimate(time_s=np.maximum(time_s, _least(case, name)),
                    is_exact=np.broadcast_to(is_exact, time_s.shape))


def peak_in_flight(name: str,
                   *,
                   ranks: ArrayLike,
                   microbatches: ArrayLike,
                   rank: ArrayLike,
                   chunks: ArrayLike = 1) -> NDArray[np.int64]:
    """The most (stage, micro-batch) pairs that a rank keeps at once.

    Parameters
    ----------
    name : str
        A published schedule.
    ranks, microbatches, rank, chunks : array of int
        They broadcast against each other.

    Examples
    --------
    >>> peak_in_flight("1f1b", ranks=4, microbatches=8, rank=[0, 3]).tolist()
    [4, 1]
    """
    case = _case(ranks, microbatches, chunks, rank, 0.0, 0.0, 0.0)
    found = _form(name)[1](case, case.f)
    return np.minimum(found, case.m * case.v).astype(np.int64)


def _case(*values: ArrayLike) -> _Case:
    return _Case(*np.broadcast_arrays(*(np.asarray(v, dtype=np.float64)
                                        for v in values)))


def _form(name: str) -> tuple[_Time, _InFlight]:
    if name not in _FORMS:
        raise ScheduleError(f"there is no closed form of {name!r}, only of "
                            f"{', '.join(sorted(_FORMS))}; simulate it")
    return _FORMS[name]


def _least(case: _Case, name: str) -> Array:
    """What holds for every order: work of the last rank, and one chain.

    The chain leads down to the last stage, through all that this has to
    do, and back up.
    """
    p, m, v, f, i, w, c = (case.p, case.m, case.v, case.f, case.i, case.w,
                           case.c)
    is_split = name in _SPLIT
    stages = p * v
    hops = np.where(p > 1, 2 * p - 2 if name in _V_SHAPED else stages - 1, 0)
    back = i if is_split else case.b
    chain = (stages - 1 + m) * (f + back) + 2 * hops * c + w * is_split
    return np.maximum(chain, (p - 1) * (f + c) + m * v * (f + i + w))


def _loopedbfs(case: _Case) -> tuple[Array, ArrayLike]:
    p, m, v = case.p, case.m, case.v
    total = np.zeros_like(p)
    for time in (case.f, case.b):
        # The first rank's next stage waits for its input to come around.
        around = np.maximum(m * time, p * (time + np.where(p > 1, case.c, 0)))
        total = total + ((v - 1) * around + (m + p - 1) * time +
                         (p - 1) * case.c)
    return total, True


def _one_f_one_b(case: _Case) -> tuple[Array, ArrayLike]:
    p, m = case.p, case.m
    # Once in p micro-batches the wait for both ways is hidden.
    hops = (p - 1) + (m - 1) - np.ceil((m - 1) / p)
    hops = np.where(p > 1, hops, 0)
    return (m + p - 1) * (case.f + case.b) + 2 * hops * case.c, True


def _interleaved(case: _Case) -> tuple[Array, ArrayLike]:
    p, m, v = case.p, case.m, case.v
    whole, whole_exact = _one_f_one_b(case)
    hops = np.where(case.whole_rounds, p * v - 1, p - 1) * (p > 1)
    time = ((m * v + p - 1) * (case.f + case.b) + 2 * hops * case.c)
    return (np.where(v == 1, whole,
                     time), (v == 1) & whole_exact | (case.c == 0) | (p == 1))


def _zbh1(case: _Case) -> tuple[Array, ArrayLike]:
    p, m, v, f, i, w = case.p, case.m, case.v, case.f, case.i, case.w
    longest = np.maximum(np.maximum(f, i), f + i - w)
    time = m * v * (f + i + w) + (p - 1) * longest
    is_exact = (case.c == 0) & (v == 1) & (m >= p)
    return np.where(m >= p, time, 0.0), is_exact | (p == 1)


def _v_shaped(paths: Callable[[Array], _Paths], fill: int) -> _Time:
    """From what paths have beyond the work of a rank."""

    def time(case: _Case) -> tuple[Array, ArrayLike]:
        more = [
            a * case.f + b * case.i + c * case.w for a, b, c in paths(case.p)
        ]
        work = 2 * case.m * (case.f + case.i + case.w)
        is_full = case.m >= 2 * case.p - fill
        longest = np.where(case.p > 1, np.max(more, axis=0), 0.0)
        return (np.where(is_full, work + longest,
                         work), is_full & (case.c == 0) | (case.p == 1))

    return time


def _zbv_paths(p: Array) -> _Paths:
    q = p - 1
    return [(0, q, 0), (0, 1, q - 1), (1, 0, q - 1), (0, 2 * q, -2 * q),
            (2 * q - 1, 1 - q, 0), (2 * q - 1, 1, -2 * q), (2 * q, -q, -1),
            (2 * q, 0, -2 * q - 1)]


def _dualpipev_paths(p: Array) -> _Paths:
    q = p - 1
    return [(-1, q, 0), (-1, 2 * q, -q), (q, 0, 0), (q, q, -q),
            (2 * q, -q, -q), (2 * q, 0, -2 * q)]


def _rounds_in_flight(case: _Case, rank: Array) -> Array:
    step = np.where(case.v > 1, 2, 1)
    return (step * (case.p - rank - 1) + (case.v - 1) * case.round_size + 1)


_Time = Callable[[_Case], tuple[Array, ArrayLike]]
_Paths = list[tuple[float | Array, float | Array, float | Array]]
"""Factors of F, I and W."""
_InFlight = Callable[[_Case, Array], Array]

_SPLIT = ("dualpipev", "zbh1", "zbv")
_V_SHAPED = ("dualpipev", "zbv")

_FORMS: dict[str, tuple[_Time, _InFlight]] = {
    "gpipe": (_loopedbfs, lambda case, rank: case.m),
    "loopedbfs": (_loopedbfs, lambda case, rank: case.m * case.v),
    "1f1b": (_one_f_one_b, lambda case, rank: case.p - rank),
    "interleaved1f1b": (_interleaved, _rounds_in_flight),
    "zbh1": (_zbh1, lambda case, rank: case.p +
             (case.v - 1) * case.round_size),
    "zbv": (_v_shaped(_zbv_paths, 1),
            lambda case, rank: np.minimum(2 * case.p, case.m + 1 + rank)),
    "dualpipev":
    (_v_shaped(_dualpipev_paths, 0),
     lambda case, rank: np.minimum(2 * case.p + 1, case.m + 1 + rank)),
}
