"""Let communication threads finish before the interpreter is torn down.

A gloo thread that frees the tensors of a finished collective needs the
interpreter's lock. If finalisation has begun by then it is ended in a way
that aborts the process ("terminate called without an active exception"),
also after ``destroy_process_group``, because device meshes keep the group
alive.
"""

from __future__ import annotations

import atexit
import time

__all__ = ["let_go_at_exit"]

_PAUSE_S = 0.05


def let_go_at_exit() -> None:
    """At exit, leave the lock to other threads for a moment; once."""
    atexit.unregister(_let_go)
    atexit.register(_let_go)


def _let_go() -> None:
    time.sleep(_PAUSE_S)
