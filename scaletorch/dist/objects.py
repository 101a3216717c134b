"""Picklable values between the ranks of a group.

Unpickling runs code, so only ranks of one job may talk like this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch.distributed as dist

__all__ = [
    "Group", "all_gather_object", "broadcast_object", "gather_object",
    "rank_in", "scatter_object", "size_of"
]

Group: TypeAlias = dist.ProcessGroup | None
"""The ranks that take part; None means all of the job's."""


def rank_in(group: Group = None) -> int:
    """This process's number in a group.

    Raises
    ------
    RuntimeError
        Without a process group.
    ValueError
        When this process is not of the group.
    """
    _check_started()
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError(f"rank {dist.get_rank()} is not of this group; "
                         "only its ranks may call this")
    return rank


def size_of(group: Group = None) -> int:
    """How many ranks a group has."""
    _check_started()
    return dist.get_world_size(group)


def all_gather_object(value: Any, *, group: Group = None) -> list[Any]:
    """Every rank's value, by rank in the group."""
    found: list[Any] = [None] * size_of(group)
    dist.all_gather_object(found, value, group=group)
    return found


def gather_object(value: Any,
                  *,
                  to: int = 0,
                  group: Group = None) -> list[Any] | None:
    """Every rank's value on rank `to` of the group; None elsewhere."""
    check_rank(to, group)
    found: list[Any] | None = None
    if rank_in(group) == to:
        found = [None] * size_of(group)
    dist.gather_object(value, found, group=group, group_dst=to)
    return found


def broadcast_object(value: Any = None,
                     *,
                     source: int = 0,
                     group: Group = None) -> Any:
    """The value of rank `source` of the group, on every rank."""
    check_rank(source, group)
    box = [value if rank_in(group) == source else None]
    dist.broadcast_object_list(box, group=group, group_src=source)
    return box[0]


def scatter_object(values: Sequence[Any] | None = None,
                   *,
                   source: int = 0,
                   group: Group = None) -> Any:
    """One value for each rank, from rank `source` of the group.

    Raises
    ------
    ValueError
        On every rank, when the source has not one for each.
    """
    check_rank(source, group)
    is_source = rank_in(group) == source
    count = len(values) if is_source and values is not None else -1
    count = broadcast_object(count, source=source, group=group)
    if count != size_of(group):
        raise ValueError(
            f"scatter: rank {source} gave "
            f"{'nothing' if count < 0 else f'{count} values'} for "
            f"{size_of(group)} ranks; give one for each")
    box: list[Any] = [None]
    dist.scatter_object_list(box,
                             list(values or ()) if is_source else None,
                             group=group,
                             group_src=source)
    return box[0]


def check_rank(rank: int, group: Group) -> None:
    """Refuse a rank that the group does not have.

    Raises
    ------
    ValueError
        Alike on every rank, so that none waits.
    """
    if not 0 <= rank < size_of(group):
        raise ValueError(f"there is no rank {rank} in a group of "
                         f"{size_of(group)}; ranks are counted in the group")


def _check_started() -> None:
    if not dist.is_initialized():
        raise RuntimeError("there is no process group: call "
                           "scaletorch.dist.init() first")
