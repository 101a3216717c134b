"""Options that keep dims of the first input as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from planner.ir.layout import S
from planner.rules.factors import place
from planner.rules.registry import OpCall, Option

__all__ = ["keep", "others", "wrap"]


def keep(call: OpCall, dims: Iterable[int], *,
         removed: Sequence[int] = ()) -> Iterator[Option]:
    """Options of a call that keeps `dims` of its first input as they are.

    Parameters
    ----------
    dims : iterable of int
        Dims of the first input; the other inputs are whole.
    removed : sequence of int
        Dims that the outputs lack.
    """
    for dim in dims:
        if dim not in removed:
            out = dim - sum(r < dim for r in removed)
            yield place(call, {0: S(dim)}, S(out))


def wrap(dim: int, ndim: int) -> int:
    """A dim counted from the front."""
    return dim % ndim if ndim else 0


def others(call: OpCall, *dims: int) -> list[int]:
    """All dims of the first input but these."""
    ndim = call.inputs[0].ndim
    left_out = {wrap(d, ndim) for d in dims}
    return [d for d in range(ndim) if d not in left_out]
