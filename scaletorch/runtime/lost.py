"""Which rank is lost when communication between ranks fails.

A rank that waits in vain may wait for one that itself waits in vain. So each
rank that fails to communicate leaves a mark in the store of the default
process group, then the ranks that it blames. The one that left no mark is the
one that is gone, or hangs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Watched", "limit_waits", "message_limit", "naming_the_lost"]

_KEY = "scaletorch/lost/"
_PAUSE_S = 0.05
_GRACE_S = 3.0
"""How much later than we others may give up: they started to wait later."""


@contextlib.contextmanager
def naming_the_lost(what: str,
                    ranks: Sequence[int],
                    *,
                    names: Sequence[str] | None = None) -> Iterator[None]:
    """Say which rank is lost where communication in this block fails.

    Parameters
    ----------
    what : str
        What is done inside, for the message.
    ranks : sequence of int
        With whom, by their numbers in the job.
    names : sequence of str, optional
        What each is called besides its number.

    Raises
    ------
    RuntimeError
        In place of what the library raises, from which it is chained.
    """
    try:
        yield
    except RuntimeError as error:
        raise _named(error, what, ranks, names or ()) from error


class Watched:
    """Says which rank is lost where an exchange of a group's ranks fails.

    Entered around code that may fail for other reasons too, whose errors
    pass, as do those that name a rank already. May be entered many times.

    Parameters
    ----------
    what : str
        What is done inside, for the message.
    *groups : ProcessGroup or None
        Whose ranks exchange something inside; None for an axis without.
    """

    __slots__ = ("_groups", "_what")

    def __init__(self, what: str, *groups: Any) -> None:
        self._what = what
        self._groups = tuple(g for g in groups if g is not None)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None,
                 trace: Any) -> None:
        if (not isinstance(error, RuntimeError) or error.__cause__ is not None
                or not _is_of_exchange(error)):
            return
        ranks = dict.fromkeys(r for g in self._groups
                              for r in dist.get_process_group_ranks(g))
        raise _named(error, self._what, tuple(ranks), ()) from error


def _is_of_exchange(error: RuntimeError) -> bool:
    """Whether a library of collectives has raised an error.

    Gloo raises plain errors, which start with a place in its own source.
    """
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def _named(error: RuntimeError, what: str, ranks: Sequence[int],
           names: Sequence[str]) -> RuntimeError:
    called = dict(zip(ranks, names, strict=False))
    who = " and ".join(_called(r, called) for r in _lost(ranks))
    return RuntimeError(
        f"{what} failed: {who} is gone or does not answer; look for its "
        "own error, and start all ranks again "
        f"({str(error).splitlines()[0]})")


def limit_waits(groups: Iterable[Any], device: torch.device) -> None:
    """Wait in groups no longer than the job's default group does.

    Groups that a mesh makes for its axes have the library's default, half
    an hour, whatever was given to ``init_process_group``.
    """
    whole = dist.group.WORLD
    if dist.get_backend(whole) == "threaded":
        return
    limit = whole._get_backend(device).options._timeout
    for group in groups:
        if group is not None and group is not whole:
            own = group._get_backend(device).options._timeout
            group.set_timeout(min(own, limit))


def message_limit(group: Any, device: torch.device) -> timedelta | None:
    """How long to wait for a message of a group; None: as its library does.

    Gloo's collectives follow the timeout that a group was given later, its
    messages only what a wait is told. To other libraries a limit would mean
    that the host waits too.
    """
    backend = group._get_backend(device)
    return backend.options._timeout if backend.name() == "gloo" else None


def _called(rank: int, called: dict[int, str]) -> str:
    return f"rank {rank} ({called[rank]})" if rank in called else f"rank {rank}"


def _lost(ranks: Sequence[int]) -> list[int]:
    """The ranks that are to blame; without a store those waited for."""
    own = dist.get_rank()
    others = [r for r in ranks if r != own]
    try:
        store = dist.group.WORLD.get_group_store()
        if store is None:
            # Ranks that are threads have none.
            return others
        store.set(f"{_KEY}{own}", "?")
        found = _blamed(store, others)
        store.set(f"{_KEY}{own}", ",".join(map(str, found)))
    except RuntimeError:
        return others
    return found


def _blamed(store: dist.Store, others: Sequence[int]) -> list[int]:
    start_s = time.monotonic()
    while True:
        marks = {
            r: store.get(f"{_KEY}{r}").decode()
            for r in others if store.check([f"{_KEY}{r}"])
        }
        known = {
            int(x)
            for text in marks.values() if text not in ("", "?")
            for x in text.split(",")
        }
        if known:
            return sorted(known)
        late_s = time.monotonic() - start_s
        silent = [r for r in others if r not in marks]
        if silent and late_s > _GRACE_S:
            return silent
        # The others are about to know better.
        if late_s > 3 * _GRACE_S:
            return list(others)
        time.sleep(_PAUSE_S)
