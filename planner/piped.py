"""Commands whose reader may stop early, as ``head`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["piped"]


def piped(main: Callable[[], int | None]) -> int:
    """Run a command; its exit status, 1 where its reader stopped early.

    What it has not written yet goes nowhere then, also when Python ends.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status
