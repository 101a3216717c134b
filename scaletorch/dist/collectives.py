"""Tensors between the ranks of a group.

Sizes that differ between ranks abort a process from inside of the backend,
and a view that is not dense gives wrong numbers; so what is sent is agreed
on first and made dense. That costs a small exchange each time: these are
for metrics, evaluation and set-up, not for the insides of a model, where
the planner places collectives. Nothing here is differentiable.

What is only moved goes as bytes, so that every dtype can be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from scaletorch.dist.objects import (Group, all_gather_object,
                                     broadcast_object, check_rank, rank_in,
                                     size_of)

__all__ = [
    "all_gather", "all_reduce", "all_to_all", "barrier", "broadcast", "gather",
    "reduce", "scatter"
]

_REDUCTIONS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "product": dist.ReduceOp.PRODUCT
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A tensor that is about to be sent."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str

    @staticmethod
    def of(tensor: torch.Tensor) -> Spec:
        return Spec(shape=tuple(tensor.shape),
                    dtype=tensor.dtype,
                    device=tensor.device.type)

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape} on {self.device}"


def all_reduce(tensor: torch.Tensor,
               how: str = "sum",
               *,
               group: Group = None) -> torch.Tensor:
    """All ranks' tensors combined, on every rank; a new tensor.

    Parameters
    ----------
    tensor : Tensor
        Of the same shape and dtype on every rank.
    how : {"sum", "mean", "max", "min", "product"}
    group : ProcessGroup, optional

    Raises
    ------
    ValueError
        On every rank, when tensors or `how` differ or do not go together.
    """
    _agree_same(f"all_reduce ({how})", tensor, group)
    if how not in _REDUCTIONS:
        raise ValueError(f"there is no reduction {how!r}; there are "
                         f"{', '.join(_REDUCTIONS)}")
    if how == "mean" and not (tensor.is_floating_point()
                              or tensor.is_complex()):
        raise ValueError(f"the mean of {tensor.dtype} is no {tensor.dtype}; "
                         "make it floating first")
    if tensor.dtype == torch.bool and how not in ("max", "min"):
        raise ValueError(f"{how} of bool: use \"max\" for any, \"min\" for "
                         "all, or make it int first")
    found = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found, _REDUCTIONS[how], group=group)
    return found / size_of(group) if how == "mean" else found


def reduce(tensor: torch.Tensor,
           how: str = "sum",
           *,
           to: int = 0,
           group: Group = None) -> torch.Tensor | None:
    """As :func:`all_reduce`, but None on ranks other than `to`.

    Sends what :func:`all_reduce` sends, which every backend has.
    """
    check_rank(to, group)
    found = all_reduce(tensor, how, group=group)
    return found if rank_in(group) == to else None


def broadcast(tensor: torch.Tensor | None = None,
              *,
              source: int = 0,
              group: Group = None,
              device: torch.device | None = None) -> torch.Tensor:
    """The tensor of rank `source`, on every rank; a new tensor.

    Other ranks need not know its shape.

    Parameters
    ----------
    tensor : Tensor, optional
        Read on the source only.
    source : int
        In the group.
    group : ProcessGroup, optional
    device : torch.device, optional
        Where other ranks get it; left out, this process's device of the
        source's type.

    Raises
    ------
    TypeError
        On every rank, when the source has no tensor.
    """
    check_rank(source, group)
    is_source = rank_in(group) == source
    own = Spec.of(tensor) if is_source and tensor is not None else None
    spec: Spec | None = broadcast_object(own, source=source, group=group)
    if spec is None:
        raise TypeError(f"broadcast: rank {source} gave no tensor")
    if is_source:
        assert tensor is not None
        sent = _bytes(tensor).clone()
    else:
        sent = torch.empty(spec.size_bytes,
                           dtype=torch.uint8,
                           device=device or spec.device)
    dist.broadcast(sent, group=group, group_src=source)
    return _tensor(sent, spec)


def all_gather(tensor: torch.Tensor,
               *,
               group: Group = None) -> list[torch.Tensor]:
    """Every rank's tensor, by rank; shapes may differ, dtypes may not."""
    specs = _agree("all_gather", tensor, group)
    most = max(s.size_bytes for s in specs)
    every = [tensor.new_empty(most, dtype=torch.uint8) for _ in specs]
    if most:
        dist.all_gather(every, _padded(tensor, most), group=group)
    return [_tensor(b, s) for b, s in zip(every, specs, strict=True)]


def gather(tensor: torch.Tensor,
           *,
           to: int = 0,
           group: Group = None) -> list[torch.Tensor] | None:
    """As :func:`all_gather`, but only one rank gets them.

    Parameters
    ----------
    tensor : Tensor
        Shapes may differ, dtypes may not.
    to : int
        Rank in the group.
    group : ProcessGroup, optional

    Returns
    -------
    list of Tensor or None
        By rank; None on the other ranks.

    Raises
    ------
    TypeError, ValueError
        On every rank, when one gives no tensor or makes another call, or
        dtypes differ.
    """
    check_rank(to, group)
    specs = _agree("gather", tensor, group)
    most = max(s.size_bytes for s in specs)
    every = None
    if rank_in(group) == to:
        every = [tensor.new_empty(most, dtype=torch.uint8) for _ in specs]
    if most:
        dist.gather(_padded(tensor, most), every, group=group, group_dst=to)
    if every is None:
        return None
    return [_tensor(b, s) for b, s in zip(every, specs, strict=True)]


def scatter(tensors: Sequence[torch.Tensor] | None = None,
            *,
            source: int = 0,
            group: Group = None,
            device: torch.device | None = None) -> torch.Tensor:
    """One tensor for each rank; shapes may differ.

    Parameters
    ----------
    tensors : sequence of Tensor, optional
        One for each rank of the group, by rank; only the source gives them.
    source : int
        Rank in the group.
    group : ProcessGroup, optional
    device : torch.device, optional
        Where the other ranks get theirs; left out, on the device of the
        source's.

    Raises
    ------
    ValueError
        On every rank, when the source has not one for each.
    """
    check_rank(source, group)
    is_source = rank_in(group) == source
    own = [Spec.of(t) for t in tensors or ()] if is_source else None
    specs: list[Spec] = broadcast_object(own, source=source, group=group)
    if len(specs) != size_of(group):
        raise ValueError(f"scatter: rank {source} gave {len(specs)} tensors "
                         f"for {size_of(group)} ranks; give one for each")
    most = max(s.size_bytes for s in specs)
    spec = specs[rank_in(group)]
    parts = [_padded(t, most) for t in tensors or ()] if is_source else None
    where = parts[0].device if parts else (device or spec.device)
    found = torch.empty(most, dtype=torch.uint8, device=where)
    if most:
        dist.scatter(found, parts, group=group, group_src=source)
    return _tensor(found, spec)


def all_to_all(tensors: Sequence[torch.Tensor],
               *,
               group: Group = None) -> list[torch.Tensor]:
    """Tensor `i` of every rank goes to rank `i`; shapes may differ.

    Returns
    -------
    list of Tensor
        What each rank sent to this one, by rank.

    Raises
    ------
    ValueError
        On every rank, when one has not a tensor for each.
    """
    own = [Spec.of(t) for t in tensors]
    every: list[list[Spec]] = all_gather_object(own, group=group)
    for rank, specs in enumerate(every):
        if len(specs) != size_of(group):
            raise ValueError(f"all_to_all: rank {rank} gave {len(specs)} "
                             f"tensors for {size_of(group)} ranks; give one "
                             "for each")
    incoming = [specs[rank_in(group)] for specs in every]
    sent = torch.cat([_bytes(t) for t in tensors])
    found = sent.new_empty(sum(s.size_bytes for s in incoming))
    if any(s.size_bytes for specs in every for s in specs):
        dist.all_to_all_single(found,
                               sent, [s.size_bytes for s in incoming],
                               [s.size_bytes for s in own],
                               group=group)
    parts = found.split([s.size_bytes for s in incoming])
    return [_tensor(p, s) for p, s in zip(parts, incoming, strict=True)]


def barrier(*, group: Group = None) -> None:
    """Wait until every rank of the group is here."""
    all_gather_object(None, group=group)


def _agree(what: str, tensor: torch.Tensor, group: Group) -> list[Spec]:
    """What every rank is about to send, of one dtype and kind of device."""
    own = Spec.of(tensor) if isinstance(
        tensor, torch.Tensor) else type(tensor).__name__
    found = all_gather_object((what, own), group=group)
    for rank, (_, spec) in enumerate(found):
        # The ranks that have a tensor would wait for one that failed.
        if isinstance(spec, str):
            raise TypeError(f"{what}: rank {rank} gave a {spec}, which is no "
                            "tensor")
    for rank, (other, spec) in enumerate(found):
        first = found[0][1]
        if other != found[0][0]:
            raise ValueError(f"rank 0 calls {found[0][0]}, rank {rank} calls "
                             f"{other}: every rank of the group makes the "
                             "same calls in the same order")
        if (spec.dtype, spec.device) != (first.dtype, first.device):
            raise ValueError(f"{what}: rank 0 has {first}, rank {rank} has "
                             f"{spec}; give the same dtype on the same kind "
                             "of device")
    return [spec for _, spec in found]


def _agree_same(what: str, tensor: torch.Tensor, group: Group) -> None:
    specs = _agree(what, tensor, group)
    for rank, spec in enumerate(specs):
        if spec != specs[0]:
            raise ValueError(f"{what}: rank 0 has {specs[0]}, rank {rank} has "
                             f"{spec}; give the same shape on every rank")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _padded(tensor: torch.Tensor, size_bytes: int) -> torch.Tensor:
    found = tensor.new_zeros(size_bytes, dtype=torch.uint8)
    own = _bytes(tensor)
    found[:len(own)] = own
    return found


def _tensor(data: torch.Tensor, spec: Spec) -> torch.Tensor:
    # A copy starts where its dtype may start, and lets go of the padding.
    return data[:spec.size_bytes].clone().view(spec.dtype).reshape(spec.shape)
