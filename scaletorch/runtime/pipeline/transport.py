"""Tensors between the ranks of a pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from scaletorch.runtime.lost import message_limit, naming_the_lost
from scaletorch.runtime.ranks import Mailbox, mailbox

__all__ = [
    "GroupTransport", "Pending", "ThreadTransport", "Transport", "transport_of"
]


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> torch.Tensor:
        """The tensor that arrives, or that was sent."""

    def is_done(self) -> bool:
        """Whether it is known to have been sent or to have arrived."""


class Transport(Protocol):
    """Sends and receives between ranks of one group, in order per pair."""

    def send(self, tensor: torch.Tensor, peer: int) -> Pending:
        """Start to send to a rank of the group."""

    def receive(self, shape: Sequence[int], dtype: torch.dtype,
                device: torch.device, peer: int) -> Pending:
        """Start to receive from a rank of the group."""


def transport_of(group: Any, names: Sequence[str]) -> Transport:
    """How the ranks of a group reach each other.

    Parameters
    ----------
    group : ProcessGroup
    names : sequence of str
        What each of its ranks is called in messages.
    """
    if dist.get_backend(group) == "threaded":
        box = mailbox()
        assert box is not None, "threaded ranks are made by run_ranks"
        return ThreadTransport(box, dist.get_process_group_ranks(group))
    return GroupTransport(group, names)


@dataclass(frozen=True, slots=True)
class _Peer:
    rank: int
    name: str

    def watched(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Errors in the block name who is lost."""
        return naming_the_lost(f"{what} rank {self.rank} ({self.name})",
                               [self.rank],
                               names=[self.name])


@dataclass(slots=True)
class _Work:
    tensor: torch.Tensor
    work: Any
    what: str
    peer: _Peer
    limit: timedelta | None

    def wait(self) -> torch.Tensor:
        with self.peer.watched(self.what):
            if self.limit is None:
                self.work.wait()
            else:
                self.work.wait(self.limit)
        return self.tensor

    def is_done(self) -> bool:
        return bool(self.work.is_completed())


class GroupTransport:
    """Over a process group's own sends and receives."""

    def __init__(self, group: Any, names: Sequence[str]) -> None:
        self._group = group
        self._limits: dict[torch.device, timedelta | None] = {}
        self._peers = [
            _Peer(rank, name) for rank, name in zip(
                dist.get_process_group_ranks(group), names, strict=True)
        ]

    def send(self, tensor: torch.Tensor, peer: int) -> Pending:
        sent, to = tensor.contiguous(), self._peers[peer]
        with to.watched("sending to"):
            work = dist.isend(sent, to.rank, group=self._group)
        return _Work(sent, work, "sending to", to, self._limit(sent.device))

    def receive(self, shape: Sequence[int], dtype: torch.dtype,
                device: torch.device, peer: int) -> Pending:
        out = torch.empty(tuple(shape), dtype=dtype, device=device)
        of = self._peers[peer]
        with of.watched("receiving from"):
            work = dist.irecv(out, of.rank, group=self._group)
        return _Work(out, work, "receiving from", of, self._limit(device))

    def _limit(self, device: torch.device) -> timedelta | None:
        if device not in self._limits:
            self._limits[device] = message_limit(self._group, device)
        return self._limits[device]


@dataclass(slots=True)
class _Arriving:
    box: Mailbox
    key: tuple[int, int]
    number: int

    def wait(self) -> torch.Tensor:
        return self.box.take(self.key, self.number)

    def is_done(self) -> bool:
        return False


@dataclass(slots=True)
class _Sent:
    tensor: torch.Tensor

    def wait(self) -> torch.Tensor:
        return self.tensor

    def is_done(self) -> bool:
        return True


class ThreadTransport:
    """Between ranks that are threads of one process."""

    def __init__(self, box: Mailbox, ranks: Sequence[int]) -> None:
        self._box = box
        self._ranks = tuple(ranks)

    def send(self, tensor: torch.Tensor, peer: int) -> Pending:
        # A copy: the other rank's tensors are not ours.
        copied = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._box.put((dist.get_rank(), self._ranks[peer]), copied)
        return _Sent(copied)

    def receive(self, shape: Sequence[int], dtype: torch.dtype,
                device: torch.device, peer: int) -> Pending:
        del shape, dtype, device
        key = (self._ranks[peer], dist.get_rank())
        return _Arriving(self._box, key, self._box.ask(key))
