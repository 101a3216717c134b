"""What the loop asks of data, and of what a model returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch

from scaletorch.data import Loader
from scaletorch.feed import Feed
from scaletorch.module import ParallelModule

__all__ = [
    "Batch", "Batches", "check_batch", "endless", "example_of", "loss_of",
    "own_part"
]

Batch = Mapping[str, torch.Tensor]
"""The global batch, on the host: the model's arguments by name."""


class Batches(Protocol):
    """Global batches, and where their reader stands.

    ``scaletorch.data.Loader`` is one.
    """

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch, or the next one."""

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last batch that was given out."""

    def load_state_dict(self, state: Any) -> None:
        """Go to a position."""


def endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch.

    Raises
    ------
    ValueError
        When an epoch has no batch.
    """
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("data: an epoch has no batch; give it more "
                             "samples or a smaller batch_size")


def example_of(batches: Batches) -> Batch:
    """Tensors like those of a global batch; the next batch stays the next."""
    if isinstance(batches, Loader):
        return batches.example()
    state = batches.state_dict()
    batch = next(endless(batches))
    batches.load_state_dict(state)
    return batch


def own_part(batches: Batches, module: ParallelModule) -> Feed | None:
    """What reads this rank's part of every batch and no more.

    None where it can't be read apart: the batches are not a ``Loader``'s, or
    an epoch's last one is smaller, which the plan may not divide.
    """
    if not isinstance(batches, Loader):
        return None
    whole = batches.drop_last or len(batches.source) % batches.batch_size == 0
    return Feed(batches, module) if whole else None


def check_batch(batch: Batch, module: ParallelModule) -> None:
    """Refuse tokens and classes that the model does not have.

    On the device such an index is a crash without a reason.

    Raises
    ------
    ValueError
        Naming the token or the class.
    """
    config = getattr(module, "config", None)
    size = getattr(config, "vocabulary_size", None) or getattr(
        config, "vocab_size", None)
    for name in ("tokens", "input_ids"):
        if size is not None and name in batch:
            largest = int(batch[name].max())
            if largest >= size:
                raise ValueError(
                    f"data: a batch has the token {largest}, but the model "
                    f"has {size} of them; take the model's own tokenizer, or "
                    "give model.overrides the data's vocabulary")
    classes = getattr(config, "classes", None)
    if classes is not None and "labels" in batch:
        largest = int(batch["labels"].max())
        if largest >= classes:
            raise ValueError(
                f"data: a batch has the class {largest} (from 0 on), but the "
                f"model has {classes} of them; give model.overrides as many "
                "classes as the data have")


def loss_of(output: Any) -> torch.Tensor:
    """The loss in what a model returned.

    Raises
    ------
    TypeError
        When there is none.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("loss")
    elif not isinstance(output, torch.Tensor):
        found = getattr(output, "loss", None)
    if not isinstance(found, torch.Tensor) or found.dim():
        raise TypeError(
            f"the model returned {type(output).__name__} without a loss: it "
            "must return a scalar, or something with .loss; are the labels "
            "among the data's tensors?")
    return found
