"""The fork server of :mod:`multiprocessing` as a fork of this process.

It imports nothing then, where a server of its own takes seconds to import
what this process has already. The private parts of Python that this needs
are confined to this file; ``tests/test_forked_server.py`` notices when they
change.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Collection, Sequence
from multiprocessing import forkserver, util
from typing import Any, NoReturn
from unittest import mock

__all__ = ["fork_server"]


def fork_server() -> None:
    """Start the server, unless there is one.

    What it forks has all that this process has imported so far. This process
    must have no other threads.
    """
    with mock.patch.object(util, "spawnv_passfds", _forked):
        forkserver.ensure_running()


def _forked(path: Any, words: Sequence[Any], kept: Collection[int]) -> int:
    """A fork that runs the program that Python would be given."""
    del path
    pid = os.fork()
    return pid or _serve(str(words[-1]), kept)


def _serve(program: str, kept: Collection[int]) -> NoReturn:
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        # Whoever forked holds it.
        forkserver._forkserver._lock = threading.Lock()  # type: ignore
        exec(program, {})
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)
