"""Many ranks in one process, for tests and for ``scaletorch.verify``.

Each rank is a thread with a process group of its own world. The private
parts of torch that this needs are confined to this file;
``tests/test_scaletorch/test_runtime/test_ranks.py`` notices when they
change.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg

__all__ = ["Mailbox", "made_once", "mailbox", "run_ranks"]

Result = TypeVar("Result")

_OF_THREAD = threading.local()


class Mailbox:
    """Messages between the ranks of one run, in order for each pair.

    Torch's threaded process group has collectives only.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: dict[tuple[int, int, int], torch.Tensor] = {}
        self._sent: collections.Counter[tuple[int,
                                              int]] = (collections.Counter())
        self._asked: collections.Counter[tuple[int,
                                               int]] = (collections.Counter())
        self._broken = False

    def put(self, key: tuple[int, int], message: torch.Tensor) -> None:
        """Leave a message; `key` is (sender, receiver)."""
        with self._changed:
            self._messages[*key, self._sent[key]] = message
            self._sent[key] += 1
            self._changed.notify_all()

    def ask(self, key: tuple[int, int]) -> int:
        """The number of the next message that has not been asked for."""
        with self._changed:
            self._asked[key] += 1
            return self._asked[key] - 1

    def take(self, key: tuple[int, int], number: int) -> torch.Tensor:
        """A message by its number; waits for it.

        Raises
        ------
        SystemExit
            When a rank has failed, as in its collectives.
        """
        with self._changed:
            place = (*key, number)
            self._changed.wait_for(
                lambda: self._broken or place in self._messages)
            if place not in self._messages:
                raise SystemExit("another rank failed")
            return self._messages.pop(place)

    def close(self) -> None:
        """Let those go that wait for a rank that failed."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()


def mailbox() -> Mailbox | None:
    """The messages of the run that this thread is a rank of."""
    return getattr(_OF_THREAD, "mailbox", None)


class _Made:
    """What the ranks of one run have asked :func:`made_once` for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[int, tuple[Any, tuple[object, ...], Any]] = {}

    def ask(self, number: int, key: Any, of: tuple[object, ...],
            make: Callable[[], Result]) -> Result:
        """What the first rank made in its request of this number."""
        with self._lock:
            if number in self._first:
                other, objects, made = self._first[number]
                if other == key and len(objects) == len(of) and all(
                        map(operator.is_, objects, of)):
                    return made
            result = make()
            self._first.setdefault(number, (key, of, result))
            return result


def made_once(key: Any, of: Sequence[object],
              make: Callable[[], Result]) -> Result:
    """What all ranks make of the same, made by the first of a run's threads.

    Every rank must ask for the same things in the same order, and none may
    change what they are made of before all have asked. Ranks that are
    processes, or that ask for something else, make their own.

    Parameters
    ----------
    key : Any
        What must be equal.
    of : sequence of object
        What must be the very same objects.
    make : callable
        Must not wait for other ranks.
    """
    made: _Made | None = getattr(_OF_THREAD, "made", None)
    if made is None:
        return make()
    number, _OF_THREAD.asked = _OF_THREAD.asked, _OF_THREAD.asked + 1
    return made.ask(number, key, tuple(of), make)


@contextlib.contextmanager
def _threads_as_ranks() -> Iterator[None]:
    """Each thread has a world of process groups meanwhile."""
    multi_threaded_pg._install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    try:
        yield
    finally:
        multi_threaded_pg._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        multi_threaded_pg.ProcessLocalGroup.reset()


def run_ranks(world_size: int, function: Callable[..., Result], *args:
              Any) -> list[Result]:
    """Run ``function(rank, *args)`` on every rank at once.

    ``torch.distributed`` is initialised inside as for a real job, with
    collectives that pass tensors between threads.

    Raises
    ------
    RuntimeError
        With the first failing rank's traceback.
    """
    store = dist.HashStore()
    results: list[Any] = [None] * world_size
    failures: list[tuple[int, str, BaseException]] = []
    box, made = Mailbox(), _Made()

    def work(rank: int) -> None:
        _OF_THREAD.mailbox = box
        _OF_THREAD.made, _OF_THREAD.asked = made, 0
        try:
            dist.init_process_group("threaded",
                                    rank=rank,
                                    world_size=world_size,
                                    store=store)
            results[rank] = function(rank, *args)
        except BaseException as error:  # a thread must report, not die
            failures.append((rank, traceback.format_exc(), error))
            multi_threaded_pg.ProcessLocalGroup.exception_handle(error)
            box.close()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    threads = [
        threading.Thread(target=work, args=(r, ), daemon=True)
        for r in range(world_size)
    ]
    with _threads_as_ranks():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        # The ranks that were waiting for the failing one exit as well.
        rank, text, error = min(failures,
                                key=lambda f:
                                (isinstance(f[2], SystemExit), f[0]))
        raise RuntimeError(f"rank {rank} failed:\n{text}") from error
    return results
