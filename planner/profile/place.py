"""Where a process runs: its host, the machine below, the processors there.

Hosts may be one machine: containers and network namespaces have host names
and addresses of their own, but the processors and the memory of others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Place", "most_on_one_machine", "place", "processors_are_shared"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""One of every kernel that runs, whatever hosts it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Of one process.

    Parameters
    ----------
    host : str
        What it calls itself.
    machine : str
        The same of all hosts that one kernel runs.
    processors : frozenset of int
        Those that it may use.
    threads : int
        How many it computes with.
    """

    host: str
    machine: str
    processors: frozenset[int]
    threads: int


def place(threads: int) -> Place:
    """Where this process is, which computes with so many threads."""
    host = socket.gethostname()
    try:
        machine = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        machine = host
    return Place(host=host,
                 machine=machine,
                 processors=_processors(),
                 threads=threads)


def _processors() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def processors_are_shared(places: Sequence[Place]) -> bool:
    """Whether a machine has more threads than processors for them.

    Examples
    --------
    >>> own = [Place(host=h, machine="m", processors=frozenset({0, 1}),
    ...              threads=1) for h in ("a", "b", "b")]
    >>> processors_are_shared(own[:2]), processors_are_shared(own)
    (False, True)
    """
    return any(
        sum(p.threads
            for p in own) > len(frozenset[int]().union(*(p.processors
                                                         for p in own)))
        for own in _by_machine(places))


def most_on_one_machine(places: Sequence[Place]) -> int:
    """Processes of the machine that has most of them."""
    return max(map(len, _by_machine(places)))


def _by_machine(places: Sequence[Place]) -> list[list[Place]]:
    found: dict[str, list[Place]] = {}
    for one in places:
        found.setdefault(one.machine, []).append(one)
    return list(found.values())
