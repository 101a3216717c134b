"""Processes that read ahead end with the one that they read for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

__all__ = ["leave_to_parent"]


def leave_to_parent(worker: int) -> None:
    """Heed SIGTERM from this process's parent alone, and SIGINT not at all.

    Launchers send the one to all processes of a job, and terminals the
    other, but a run goes on to the end of its step and saves, and a worker
    that is gone would break that.
    """
    del worker
    # Whom it was made for; the kernel's parent may be a fork server.
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(parent.pid, ),
                     daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
