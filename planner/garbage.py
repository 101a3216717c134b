"""Garbage collections that leave out what was there before, or are few.

A captured model, and torch itself, are millions of objects that live on.
Each full collection looks through all of them, which takes longer than most
of what it is called for. A search makes millions more, which live on as well,
and next to no cycles: by default an eighth of its time went in collections
that found nothing.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["all_objects", "few_collections", "new_objects_alone"]

_MANY = 1_000_000
"""Objects between two collections, a few hundred megabytes at most."""


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
def few_collections() -> Iterator[None]:
    """Meanwhile objects are collected after so many new ones that it takes
    no time to speak of.

    Examples
    --------
    >>> with few_collections():
    ...     gc.get_threshold()[0] >= 1_000_000
    True
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _MANY:
        yield
        return
    gc.set_threshold(_MANY, *before[1:])
    try:
        with new_objects_alone():
            yield
    finally:
        gc.set_threshold(*before)


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
