"""``torch.utils.checkpoint`` in a model, which a plan decides anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from planner.capture.batch_statistics import Recomputed, kept_statistics
from planner.capture.nodes import strip_entry

__all__ = ["inlined_checkpoints"]

_NOTE = ("activation checkpointing in the model is left out of the capture: "
         "the plan decides what is recomputed")
_INNER = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")


@contextlib.contextmanager
def inlined_checkpoints(model: nn.Module, notes: list[str]) -> Iterator[None]:
    """Run what is checkpointed as if it were not.

    Tracing through the reentrant variant loses gradients, and what to
    recompute is for the plan to decide. What eager training does by
    computing twice, batch norms' statistics, is done here as well; a note
    names other buffers that it writes to twice.
    """
    regions = _Regions(model, notes)

    class Inlined:

        @staticmethod
        def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            del preserve
            with regions.entered(reentrant=True), _as_reentrant(args):
                return run(*args)

    def inlined(*args: Any, **kwargs: Any) -> Iterator[None]:
        del args, kwargs
        with regions.entered(reentrant=False):
            yield

    module = torch.utils.checkpoint
    saved = {name: getattr(module, name) for name in _INNER}
    for name, replacement in zip(_INNER, (Inlined, inlined), strict=True):
        setattr(module, name, replacement)
    try:
        with kept_statistics(regions.recomputed, regions.note_two_modes):
            yield
    finally:
        for name, original in saved.items():
            setattr(module, name, original)


class _Regions:
    """The checkpointed regions of a model, and the notes on them."""

    def __init__(self, model: nn.Module, notes: list[str]) -> None:
        self.model = model
        self.notes = notes
        self.recomputed = Recomputed()

    @contextlib.contextmanager
    def entered(self, *, reentrant: bool) -> Iterator[None]:
        self._note(_NOTE)
        before = _written_state(self.model)
        with self.recomputed.region(reentrant=reentrant):
            yield
        for name, state in _written_state(self.model).items():
            if before.get(name, state) != state:
                self._note(
                    f"forward writes to the buffer {strip_entry(name)} in a "
                    "checkpointed region: the program does so once a call, "
                    "and not again where activations are recomputed, as "
                    "eager training does")

    def note_two_modes(self, norm: nn.Module) -> None:
        name = next(n for n, m in self.model.named_modules() if m is norm)
        self._note(
            f"forward calls the batch norm {strip_entry(name)} in evaluation "
            "and then in training: the gradient of the first call is that "
            "of the statistics which it used, where eager training takes "
            "those that the second call leaves")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _written_state(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Changes with each write to a buffer that is no batch norm's."""
    with torch._C.DisableTorchFunction():
        return {
            f"{path}.{name}".removeprefix("."): (id(buffer), buffer._version)
            for path, module in model.named_modules()
            if not isinstance(module, _BatchNorm)
            for name, buffer in module._buffers.items() if buffer is not None
        }


def _as_reentrant(args: tuple[Any, ...]) -> contextlib.AbstractContextManager:
    """The reentrant variant's results carry gradients if its inputs do."""
    carried = any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in args)
    return contextlib.nullcontext() if carried else torch.no_grad()
