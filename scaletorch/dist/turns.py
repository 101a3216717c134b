"""Ranks one after another: downloads, caches, files that all share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scaletorch.dist.objects import Group, all_gather_object, rank_in, size_of
from scaletorch.dist.start import Process

__all__ = ["in_order", "main_first"]


@contextlib.contextmanager
def main_first(process: Process, *, local: bool = False) -> Iterator[None]:
    """Rank 0 runs the block first, then all others at once.

    Parameters
    ----------
    process : Process
    local : bool
        Whether the first process of every host goes first, for disks that
        hosts do not share.

    Raises
    ------
    RuntimeError
        On the waiting ranks, when the block failed on the first.

    Examples
    --------
    >>> from scaletorch import dist
    >>> process = dist.init("cpu", variables={})
    >>> with main_first(process):
    ...     print("prepare, or find what rank 0 prepared")
    prepare, or find what rank 0 prepared
    >>> dist.shutdown()
    """
    goes_first = process.is_local_main if local else process.is_main
    if not goes_first:
        _pass_on("main_first", None, None)
        yield
        return
    with _told("main_first", None):
        yield


@contextlib.contextmanager
def in_order(*, group: Group = None) -> Iterator[None]:
    """The ranks of a group run the block one after another.

    Raises
    ------
    RuntimeError
        On the ranks that did not fail, when one did.
    """
    rank = rank_in(group)
    for _ in range(rank):
        _pass_on("in_order", None, group)
    with _told("in_order", group):
        yield
    for _ in range(rank + 1, size_of(group)):
        _pass_on("in_order", None, group)


@contextlib.contextmanager
def _told(what: str, group: Group) -> Iterator[None]:
    """Run a block while others wait, and tell them how it went."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    try:
        _pass_on(what, error, group)
    except RuntimeError:
        if error is None:
            raise
    if error is not None:
        raise error


def _pass_on(what: str, error: Exception | None, group: Group) -> None:
    text = None if error is None else f"{type(error).__name__}: {error}"
    for rank, failure in enumerate(all_gather_object(text, group=group)):
        if failure is not None:
            raise RuntimeError(f"{what} failed on rank {rank}: {failure}")
