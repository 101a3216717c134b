"""Ranks agree on what they are about to do before they do it.

A collective between ranks that run different programs hangs or aborts the
process from C++, so every call starts by comparing signatures, and what
may fail on one rank alone is followed by an exchange of errors.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from planner.seeded import next_seed
from scaletorch.mesh import mesh_device
from scaletorch.runtime.closing import let_go_at_exit
from scaletorch.runtime.lost import naming_the_lost

__all__ = ["Agreement", "Comparison"]

_WHAT = "call the model with different inputs"
_REMEDY = ("every rank passes the same global batch (or, with "
           'inputs="local", shards of the same shape) in the same mode')


class Comparison:
    """Signatures of all ranks on their way.

    Parameters
    ----------
    rows : callable
        Waits for what every rank sent: a mark and a seed.
    first : int
        The row of the mesh's first rank.
    explain : callable
        Raises the error that tells what differs; run on every rank.
    """

    def __init__(self, *, rows: Callable[[], list[list[int]]], first: int,
                 explain: Callable[[], None]) -> None:
        self._rows = rows
        self._first = first
        self._explain = explain
        self._seed: int | None = None

    def settle(self) -> int:
        """Wait and compare, once.

        Returns
        -------
        int
            The first rank's seed.

        Raises
        ------
        ValueError
            On every rank, when signatures differ.
        """
        if self._seed is None:
            rows = self._rows()
            if len({mark for mark, _ in rows}) > 1:
                self._explain()
            self._seed = rows[self._first][1]
        return self._seed


class Agreement:
    """Exchanges signatures, errors and seeds over the ranks of a mesh."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.ranks = mesh.mesh.flatten().tolist()
        whole = self.ranks == list(range(dist.get_world_size()))
        on_host = mesh.device_type == "cpu" or dist.is_gloo_available()
        self.device = torch.device("cpu") if on_host else mesh_device(mesh)
        if whole and mesh.device_type == "cpu":
            self.group = dist.group.WORLD
        else:
            # Over gloo, so that an accelerator does not wait for the host;
            # ranks outside of the mesh do not come by here.
            backend = "gloo" if mesh.device_type != "cpu" and on_host else None
            self.group = dist.new_group(self.ranks,
                                        backend=backend,
                                        use_local_synchronization=True)
        members = dist.get_process_group_ranks(self.group)
        self._first_member = members.index(self.ranks[0])
        self._marks: dict[Hashable, int] = {}
        let_go_at_exit()

    @property
    def is_first(self) -> bool:
        """Whether this is the mesh's first rank."""
        return dist.get_rank() == self.ranks[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (picklable), in mesh order."""
        found: list[Any] = [None] * len(self.ranks)
        with naming_the_lost("comparing ranks", self.ranks):
            dist.all_gather_object(found, value, group=self.group)
        members = dist.get_process_group_ranks(self.group)
        by_rank = dict(zip(members, found, strict=True))
        return [by_rank[rank] for rank in self.ranks]

    def first(self, value: Any) -> Any:
        """The first rank's value (picklable), on every rank."""
        return self.gather(value if self.is_first else None)[0]

    @contextlib.contextmanager
    def together(self, action: str) -> Iterator[None]:
        """Leave this block on all ranks, or raise on all.

        Parameters
        ----------
        action : str
            What is done inside, for the message.

        Raises
        ------
        RuntimeError
            When another rank failed and this one did not.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        texts = self.gather("" if error is
                            None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in zip(self.ranks, texts, strict=True):
            if text:
                raise RuntimeError(f"{action} failed on rank {rank}: {text}")

    def check(self,
              signature: Hashable,
              *,
              draws: bool = False,
              what: str = _WHAT,
              remedy: str = _REMEDY) -> int:
        """Raise on every rank when signatures differ.

        Parameters
        ----------
        signature : hashable
            With a repr that tells what differs.
        draws : bool
            Whether to share a seed: the first rank's next number of torch's
            default generator (all ranks advance theirs alike).
        what, remedy : str
            For the message.

        Returns
        -------
        int
            The seed, the same on all ranks; 0 without `draws`.

        Raises
        ------
        ValueError
            On every rank, naming two ranks that differ.
        """
        return self.start(signature, draws=draws, what=what,
                          remedy=remedy).settle()

    def start(self,
              signature: Hashable,
              *,
              draws: bool = False,
              what: str = _WHAT,
              remedy: str = _REMEDY) -> Comparison:
        """Send what :meth:`check` compares, which
        :meth:`Comparison.settle` then does.

        In between a rank may compute, but take part in no collective: not
        all ranks might.
        """
        seed = next_seed() if draws else 0
        mine = torch.tensor([self._mark(signature), seed], device=self.device)
        every = mine.new_empty(2 * len(self.ranks))
        what_fails = "agreeing on the next call"
        with naming_the_lost(what_fails, self.ranks):
            work = dist.all_gather_single(every,
                                          mine,
                                          group=self.group,
                                          async_op=True)

        def rows() -> list[list[int]]:
            with naming_the_lost(what_fails, self.ranks):
                work.wait()
            return every.view(-1, 2).tolist()

        return Comparison(
            rows=rows,
            first=self._first_member,
            explain=lambda: self._explain(signature, what, remedy))

    def _mark(self, signature: Hashable) -> int:
        if signature not in self._marks:
            digest = hashlib.sha256(repr(signature).encode()).digest()
            self._marks[signature] = int.from_bytes(digest[:7], "big")
        return self._marks[signature]

    def _explain(self, signature: Hashable, what: str, remedy: str) -> None:
        texts = self.gather(repr(signature))
        other = next(i for i, t in enumerate(texts) if t != texts[0])
        mine, theirs = _different_part(texts[0], texts[other])
        raise ValueError(
            f"ranks {what}: rank {self.ranks[0]} with {mine}, rank "
            f"{self.ranks[other]} with {theirs}; {remedy}")


def _different_part(a: str, b: str, *, around: int = 60) -> tuple[str, str]:
    """Two long texts cut to where they start to differ."""
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y),
                 min(len(a), len(b)))
    begin = max(0, start - around)
    dots = "..." if begin else ""
    return (dots + a[begin:start + around], dots + b[begin:start + around])
