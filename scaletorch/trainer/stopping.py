"""A signal asks for a checkpoint and an end, between two steps."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.lost import naming_the_lost

__all__ = ["Stop"]

_LOGGER = logging.getLogger("scaletorch")
_HEEDED = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the run is asked to end; set on one rank, seen on all."""

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._asked = 0

    def ask(self, number: int = signal.SIGTERM) -> None:
        """End after the step that is running, as for this signal."""
        self._asked = max(self._asked, number)

    def agreed(self) -> int:
        """For which signal to end, on any rank; 0: for none.

        Called on every rank. Of several it is the highest, so that SIGTERM
        goes before SIGINT.
        """
        asked = torch.tensor([self._asked], device=self._agreement.device)
        with naming_the_lost("agreeing on whether to go on",
                             self._agreement.ranks):
            dist.all_reduce(asked,
                            dist.ReduceOp.MAX,
                            group=self._agreement.group)
        return int(asked.item())

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT (Ctrl-C) ask, inside.

        Any of them after a SIGINT ends the process at once. In threads
        there are no signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._received) for n in _HEEDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.ask(number)
        if number == signal.SIGINT:
            # The kernel ends even a process that waits for another rank.
            # torchrun passes a second Ctrl-C on as SIGTERM.
            for each in _HEEDED:
                signal.signal(each, signal.SIG_DFL)
            if self._agreement.is_first:
                _LOGGER.warning("interrupted: the run ends after this step, "
                                "saved; a second Ctrl-C ends it at once")
