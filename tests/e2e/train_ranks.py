"""Training runs in real processes, of which some are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence

from scaletorch.trainer.config import Config
from scaletorch.trainer.loop import Trainer
from tests.test_scaletorch.test_trainer.runs import Rows

__all__ = ["run"]


def run(rank: int,
        config: Config,
        at: int = 0,
        received: Sequence[int] = ()) -> tuple[int, Rows]:
    """Train, and send the last rank signals after a step.

    Parameters
    ----------
    rank : int
    config : Config
    at : int
        After which step; 0: never.
    received : sequence of int
        The signal, and perhaps one more while that rank saves, as by a
        launcher that signals its own processes and theirs.

    Returns
    -------
    tuple of int and list
        The exit code, and the rows of metrics.
    """
    rows: Rows = []

    def note(row: Mapping[str, float]) -> None:
        rows.append(dict(row))
        if row["step"] == at and rank == trainer.module.mesh.size() - 1:
            os.kill(os.getpid(), received[0])

    def save_signalled() -> None:
        if rows[-1]["step"] == at and rank == trainer.module.mesh.size() - 1:
            for number in received[1:]:
                os.kill(os.getpid(), number)
        save()

    trainer = Trainer(config, callbacks=[note])
    save = trainer.save
    setattr(trainer, "save", save_signalled)
    heeded = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in heeded]
    ended = trainer.run()
    assert [signal.getsignal(number) for number in heeded] == before
    return ended.value, rows
