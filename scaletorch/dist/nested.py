"""Nested structures of tensors, and metrics, between ranks.

A structure is whatever torch's pytree takes apart: dicts, lists, tuples,
dataclasses that are registered. Leaves that are no tensors are pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from scaletorch.dist.collectives import all_gather, all_reduce, broadcast
from scaletorch.dist.objects import (Group, all_gather_object,
                                     broadcast_object, check_rank, rank_in,
                                     size_of)

__all__ = [
    "all_gather_nested", "broadcast_nested", "gather_nested", "reduce_nested",
    "sync"
]


class _Hole:
    """Stands where a tensor stood."""


def broadcast_nested(value: Any = None,
                     *,
                     source: int = 0,
                     group: Group = None) -> Any:
    """The structure of rank `source`, on every rank."""
    check_rank(source, group)
    is_source = rank_in(group) == source
    given = pytree.tree_leaves(value) if is_source else []
    frame = broadcast_object(_frame(value) if is_source else None,
                             source=source,
                             group=group)
    leaves, tree = pytree.tree_flatten(frame)
    found = [
        broadcast(given[i] if is_source else None, source=source, group=group)
        if isinstance(leaf, _Hole) else leaf for i, leaf in enumerate(leaves)
    ]
    return pytree.tree_unflatten(found, tree)


def all_gather_nested(value: Any, *, group: Group = None) -> list[Any]:
    """Every rank's structure, by rank; tensors' shapes may differ.

    Raises
    ------
    ValueError
        On every rank, when the structures differ.
    """
    leaves, tree = pytree.tree_flatten(value)
    frames = _frames("all_gather_nested", value, group)
    every = [pytree.tree_leaves(frame) for frame in frames]
    columns: list[list[Any]] = []
    for place, leaf in enumerate(leaves):
        columns.append(
            all_gather(leaf, group=group) if isinstance(leaf, torch.Tensor)
            else [other[place] for other in every])
    return [
        pytree.tree_unflatten([column[rank] for column in columns], tree)
        for rank in range(size_of(group))
    ]


def gather_nested(value: Any,
                  *,
                  to: int = 0,
                  group: Group = None) -> list[Any] | None:
    """As :func:`all_gather_nested`, but None on ranks other than `to`."""
    check_rank(to, group)
    found = all_gather_nested(value, group=group)
    return found if rank_in(group) == to else None


def reduce_nested(value: Any, how: str = "sum", *, group: Group = None) -> Any:
    """Every tensor of a structure combined over the ranks, on each.

    Leaves that are no tensors stay this rank's own.

    Raises
    ------
    ValueError
        On every rank, when the structures differ.
    """
    leaves, tree = pytree.tree_flatten(value)
    _frames("reduce_nested", value, group)
    found = [
        all_reduce(x, how, group=group) if isinstance(x, torch.Tensor) else x
        for x in leaves
    ]
    return pytree.tree_unflatten(found, tree)


def sync(values: Mapping[str, float | torch.Tensor],
         how: str | Mapping[str, str] = "mean",
         *,
         group: Group = None) -> dict[str, float]:
    """Numbers by name, combined over the ranks: losses, counts, times.

    Parameters
    ----------
    values : mapping of str to number
        Or tensors of one element; the same names on every rank.
    how : str or mapping of str to str
        ``"mean"``, ``"sum"``, ``"max"`` or ``"min"``, for all or by name.
    group : ProcessGroup, optional

    Returns
    -------
    dict of str to float
        Sorted by name; combined in double precision, in the order of the
        ranks, so that it is the same on all of them.

    Raises
    ------
    ValueError
        On every rank, when the names differ, for what is no single number
        or for an unknown `how`.
    """
    # What is no number fails on all ranks alike, once they have met.
    own = {n: _number(v) for n, v in sorted(values.items())}
    every = all_gather_object(own, group=group)
    for rank, other in enumerate(every):
        if list(other) != list(every[0]):
            odd = sorted(set(other) ^ set(every[0]))
            raise ValueError(f"sync: rank 0 and rank {rank} differ in "
                             f"{', '.join(odd)}; every rank gives the same "
                             "names")
        for name, number in other.items():
            if isinstance(number, str):
                raise ValueError(f"sync: {name} is {number} on rank {rank}, "
                                 "which is no single number")
    ways = {
        n: how if isinstance(how, str) else how.get(n, "mean")
        for n in own
    }
    return {
        n: _combined([other[n] for other in every], way)
        for n, way in ways.items()
    }


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(value).__name__}"


def _combined(numbers: list[float], how: str) -> float:
    if how == "mean":
        return sum(numbers) / len(numbers)
    if how == "sum":
        return sum(numbers)
    if how in ("max", "min"):
        return max(numbers) if how == "max" else min(numbers)
    raise ValueError(f"sync: there is no way {how!r} to combine numbers; "
                     "there are mean, sum, max, min")


def _frame(value: Any) -> Any:
    """A structure without its tensors, light enough to be pickled."""
    return pytree.tree_map(
        lambda x: _Hole() if isinstance(x, torch.Tensor) else x, value)


def _frames(what: str, value: Any, group: Group) -> list[Any]:
    """Every rank's frame; all have the same structure."""
    frames = all_gather_object(_frame(value), group=group)
    kinds = [_kind(frame) for frame in frames]
    for rank, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(f"{what}: rank 0 has the structure "
                             f"{kinds[0][0]}, rank {rank} has {kind[0]}; "
                             "give the same one on every rank")
    return frames


def _kind(frame: Any) -> tuple[Any, list[bool]]:
    leaves, tree = pytree.tree_flatten(frame)
    return tree, [isinstance(x, _Hole) for x in leaves]
