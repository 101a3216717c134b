"""``torch.cond`` as the branch that it is.

Outside of ``torch.compile`` it compiles itself, which it refuses under the modes
that a capture has. As ``if`` and ``else`` it is seen as any other branch on a
value.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["plain_branches"]

_LOCK = threading.Lock()
_COND: Any = torch.cond
_CODE = _COND.__code__
_inside = 0


def _branch(
    pred: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: tuple[Any, ...] | list[Any] = ()
) -> Any:
    return true_fn(*operands) if pred else false_fn(*operands)


@contextlib.contextmanager
def plain_branches() -> Iterator[None]:
    """Let calls of ``torch.cond`` choose in Python meanwhile.

    Its code is exchanged, since its name may be bound anywhere; ranks may be
    threads of one process.
    """
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def _enter(step: int) -> None:
    global _inside
    with _LOCK:
        _inside += step
        _COND.__code__ = _branch.__code__ if _inside else _CODE
