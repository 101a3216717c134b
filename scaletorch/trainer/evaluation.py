"""The loss over data that is not trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from scaletorch.module import ParallelModule
from scaletorch.trainer.batches import Batch, Batches

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(module: ParallelModule, batches: Batches,
             loss: Callable[[Batch], torch.Tensor], limit: int) -> float:
    """The mean loss over an epoch, from its start.

    Parameters
    ----------
    module : ParallelModule
        In training mode, as it is afterwards.
    batches : Batches
        At the start of their first epoch, as they are afterwards.
    loss : callable
        Of a batch.
    limit : int
        The most batches to read; 0: all.

    Returns
    -------
    float
        Batches count by their rows.
    """
    start = batches.state_dict()
    module.eval()
    total, rows = 0.0, 0
    for batch in itertools.islice(iter(batches), limit or None):
        size = next(iter(batch.values())).shape[0]
        total += loss(batch).item() * size
        rows += size
    module.train()
    batches.load_state_dict(start)
    return total / rows
