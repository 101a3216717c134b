"""SIGTERM asks for a checkpoint and an end, between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from scaletorch.runtime.agree import Agreement

__all__ = ["Stop"]


class Stop:
    """Whether the run is asked to end; set on one rank, seen on all."""

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._asked = False

    def ask(self) -> None:
        """End after the step that is running."""
        self._asked = True

    def agreed(self) -> bool:
        """Whether any rank was asked; called on every rank."""
        flag = torch.tensor([int(self._asked)], device=self._agreement.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._agreement.group)
        return bool(flag.item())

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Let SIGTERM ask, inside; in threads there are no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(*received: Any) -> None:
            del received
            self.ask()

        before = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
