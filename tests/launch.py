"""Real processes with gloo: a function on every rank, its results back.

A fork server that has loaded what they need makes a launch cost little;
``run_tests.py`` forks it from the module's process. The ranks meet through a
file, so no port has to be free.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["LaunchError", "launch"]

_PRELOAD = ["tests.preload", "tests.model_zoo"]


class LaunchError(RuntimeError):
    """Some ranks failed; `failures` has each one's text by rank."""

    def __init__(self, failures: dict[int, str]) -> None:
        self.failures = failures
        super().__init__("\n".join(f"rank {rank}: {text}"
                                   for rank, text in failures.items()))


def launch(world_size: int,
           function: Callable[..., Any],
           *args: Any,
           timeout_s: float = 60.0,
           group_timeout_s: float = 20.0) -> list[Any]:
    """Run ``function(rank, *args)`` in as many processes.

    Parameters
    ----------
    world_size : int
    function : callable
        Importable; the default process group is up when it is called.
    *args
        Picklable, as the results must be.
    timeout_s : float
        Of the whole launch.
    group_timeout_s : float
        Of each collective.

    Raises
    ------
    LaunchError
        With the traceback of each failing rank, or what it died of.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "store")
        ends: dict[Any, int] = {}
        processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_rank,
                                      args=(theirs, function, rank, world_size,
                                            meeting, group_timeout_s, args))
            process.start()
            theirs.close()
            ends[ours] = rank
            processes.append(process)
        try:
            found = _collected(ends, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.join(0.5)
                if process.is_alive():
                    process.kill()
                process.join()
    failures = {r: text for r, (ok, text) in found.items() if not ok}
    if failures:
        raise LaunchError(failures)
    return [found[rank][1] for rank in range(world_size)]


def _collected(ends: dict[Any, int],
               deadline_s: float) -> dict[int, tuple[bool, Any]]:
    found: dict[int, tuple[bool, Any]] = {}
    left = dict(ends)
    while left:
        ready = wait(list(left), max(0.0, deadline_s - time.monotonic()))
        if not ready:
            found |= dict.fromkeys(left.values(), (False, "timed out"))
            break
        for end in ready:
            assert isinstance(end, Connection)
            rank = left.pop(end)
            try:
                found[rank] = pickle.loads(end.recv_bytes())
            except EOFError:
                found[rank] = (False, "died")
    return dict(sorted(found.items()))


def _rank(end: Connection, function: Callable[...,
                                              Any], rank: int, world_size: int,
          meeting: str, group_timeout_s: float, args: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # As under a launcher: forks would all draw the same.
    torch.manual_seed(1_000 + rank)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=group_timeout_s))
        result = function(rank, *args)
    except BaseException:
        answer: tuple[bool, Any] = (False, traceback.format_exc())
    else:
        answer = (True, result)
    # Plain bytes: torch's own pickling would pass files of shared memory.
    end.send_bytes(pickle.dumps(answer))
    end.close()
    # Waiting for the peers of a broken group would only take long.
    os._exit(0)
