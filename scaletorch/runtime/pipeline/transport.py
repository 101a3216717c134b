"""Tensors between the ranks of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from scaletorch.runtime.ranks import Mailbox, mailbox

__all__ = [
    "GroupTransport", "Pending", "ThreadTransport", "Transport", "transport_of"
]


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> torch.Tensor:
        """The tensor that arrives, or that was sent."""


class Transport(Protocol):
    """Sends and receives between ranks of one group, in order per pair."""

    def send(self, tensor: torch.Tensor, peer: int) -> Pending:
        """Start to send to a rank of the group."""

    def receive(self, shape: Sequence[int], dtype: torch.dtype,
                device: torch.device, peer: int) -> Pending:
        """Start to receive from a rank of the group."""


def transport_of(group: Any) -> Transport:
    """How the ranks of a group reach each other."""
    if dist.get_backend(group) == "threaded":
        box = mailbox()
        assert box is not None, "threaded ranks are made by run_ranks"
        return ThreadTransport(box, dist.get_process_group_ranks(group))
    return GroupTransport(group)


@dataclass(slots=True)
class _Work:
    tensor: torch.Tensor
    work: Any
    what: str

    def wait(self) -> torch.Tensor:
        try:
            self.work.wait()
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.what} failed: that rank is gone or does not answer "
                f"({error}); look for its own error, and start all ranks "
                "again") from error
        return self.tensor


class GroupTransport:
    """Over a process group's own sends and receives."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._ranks = dist.get_process_group_ranks(group)

    def send(self, tensor: torch.Tensor, peer: int) -> Pending:
        sent = tensor.contiguous()
        rank = self._ranks[peer]
        what = f"sending to rank {rank}, stage rank {peer} of the pipeline,"
        work = _started(what,
                        lambda: dist.isend(sent, rank, group=self._group))
        return _Work(sent, work, what)

    def receive(self, shape: Sequence[int], dtype: torch.dtype,
                device: torch.device, peer: int) -> Pending:
        out = torch.empty(tuple(shape), dtype=dtype, device=device)
        rank = self._ranks[peer]
        what = f"receiving from rank {rank}, stage rank {peer} of the " \
            "pipeline,"
        work = _started(what, lambda: dist.irecv(out, rank, group=self._group))
        return _Work(out, work, what)


def _started(what: str, start: Callable[[], Any]) -> Any:
    try:
        return start()
    except RuntimeError as error:
        raise RuntimeError(
            f"{what} failed: that rank is gone ({error}); look for its own "
            "error, and start all ranks again") from error


@dataclass(slots=True)
class _Arriving:
    box: Mailbox
    key: tuple[int, int]
    number: int

    def wait(self) -> torch.Tensor:
        return self.box.take(self.key, self.number)


@dataclass(slots=True)
class _Sent:
    tensor: torch.Tensor

    def wait(self) -> torch.Tensor:
        return self.tensor


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
