"""Training runs in real processes, of which some are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from scaletorch.trainer.loop import Trainer
from tests.test_scaletorch.test_trainer.runs import Rows, tiny

__all__ = ["run"]


def run(rank: int,
        keys: Mapping[str, Any],
        at: int = 0,
        received: int = 0) -> tuple[int, Rows]:
    """Train, and send the last rank a signal after a step.

    SIGTERM is sent again while that rank saves, as by a launcher that
    signals its own processes and theirs.

    Parameters
    ----------
    rank : int
    keys : mapping
        Of the config.
    at : int
        After which step; 0: never.
    received : int
        The signal.

    Returns
    -------
    tuple of int and list
        The exit code, and the rows of metrics.
    """
    rows: Rows = []

    def note(row: Mapping[str, float]) -> None:
        rows.append(dict(row))
        if row["step"] == at and rank == trainer.module.mesh.size() - 1:
            os.kill(os.getpid(), received)

    def save_signalled() -> None:
        if received == signal.SIGTERM and rows[-1]["step"] == at:
            os.kill(os.getpid(), received)
        save()

    trainer = Trainer(tiny(keys), callbacks=[note])
    save = trainer.save
    setattr(trainer, "save", save_signalled)
    before = signal.getsignal(signal.SIGTERM)
    ended = trainer.run()
    assert signal.getsignal(signal.SIGTERM) == before
    return ended.value, rows
