"""Many ranks in one process, for tests and for ``scaletorch.verify``.

Each rank is a thread with a process group of its own world. The private
parts of torch that this needs are confined to this file;
``tests/test_scaletorch/test_runtime/test_ranks.py`` notices when they
change.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg

__all__ = ["run_ranks"]

Result = TypeVar("Result")


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
    multi_threaded_pg._install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    store = dist.HashStore()
    results: list[Any] = [None] * world_size
    failures: list[tuple[int, str, BaseException]] = []

    def work(rank: int) -> None:
        try:
            dist.init_process_group("threaded",
                                    rank=rank,
                                    world_size=world_size,
                                    store=store)
            results[rank] = function(rank, *args)
        except BaseException as error:  # a thread must report, not die
            failures.append((rank, traceback.format_exc(), error))
            multi_threaded_pg.ProcessLocalGroup.exception_handle(error)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    threads = [
        threading.Thread(target=work, args=(r, ), daemon=True)
        for r in range(world_size)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        multi_threaded_pg._uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        multi_threaded_pg.ProcessLocalGroup.reset()
    if failures:
        # The ranks that were waiting for the failing one exit as well.
        rank, text, error = min(failures,
                                key=lambda f:
                                (isinstance(f[2], SystemExit), f[0]))
        raise RuntimeError(f"rank {rank} failed:\n{text}") from error
    return results
