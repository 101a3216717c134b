"""``torch.utils.checkpoint`` in a model, which a plan decides anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint

from planner.capture.batch_statistics import Recomputed, kept_statistics

__all__ = ["inlined_checkpoints"]

_NOTE = ("activation checkpointing in the model is left out of the capture: "
         "the plan decides what is recomputed")
_INNER = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")


@contextlib.contextmanager
def inlined_checkpoints(notes: list[str]) -> Iterator[None]:
    """Run what is checkpointed as if it were not.

    Tracing through the reentrant variant loses gradients, and what to
    recompute is for the plan to decide. What eager training does by
    computing twice, batch norms' statistics, is done here as well.
    """
    recomputed = Recomputed()

    def note() -> None:
        if _NOTE not in notes:
            notes.append(_NOTE)

    class Inlined:

        @staticmethod
        def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            del preserve
            note()
            with recomputed.region(reentrant=True), _as_reentrant(args):
                return run(*args)

    def inlined(*args: Any, **kwargs: Any) -> Iterator[None]:
        del args, kwargs
        note()
        with recomputed.region(reentrant=False):
            yield

    module = torch.utils.checkpoint
    saved = {name: getattr(module, name) for name in _INNER}
    for name, replacement in zip(_INNER, (Inlined, inlined), strict=True):
        setattr(module, name, replacement)
    try:
        with kept_statistics(recomputed):
            yield
    finally:
        for name, original in saved.items():
            setattr(module, name, original)


def _as_reentrant(args: tuple[Any, ...]) -> contextlib.AbstractContextManager:
    """The reentrant variant's results carry gradients if its inputs do."""
    carried = any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in args)
    return contextlib.nullcontext() if carried else torch.no_grad()
