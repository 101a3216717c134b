"""Garbage collections that leave out what was there before.

A captured model, and torch itself, are millions of objects that live on.
Each full collection looks through all of them, which takes longer than most
of what it is called for.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["all_objects", "new_objects_alone"]


@contextlib.contextmanager
def new_objects_alone() -> Iterator[None]:
    """Meanwhile only objects that are made inside are collected.

    Where others are left out already it is the caller's business, and nothing
    is done.

    Examples
    --------
    >>> with new_objects_alone():
    ...     gc.get_freeze_count() > 0
    True
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def all_objects() -> Iterator[None]:
    """Meanwhile the collector knows all objects, also those left out.

    Only of those that it knows it tells who refers to them.
    """
    if not gc.get_freeze_count():
        yield
        return
    gc.unfreeze()
    try:
        yield
    finally:
        gc.freeze()
