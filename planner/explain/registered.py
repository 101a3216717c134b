"""Models that packages offer by name.

A package offers models by an entry point of the group ``planner.models``: a
module with ``names()``, and ``example(name, *, batch, sequence, dtype)``
that returns a model on the meta device and the inputs of one global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch
from torch import nn

from planner.names import nearest

__all__ = ["Offer", "registered"]

_GROUP = "planner.models"


class Offer(Protocol):
    """What an entry point of the group names."""

    def names(self) -> Sequence[str]:
        """The names of all models."""

    def example(self, name: str, *, batch: int, sequence: int | None,
                dtype: torch.dtype) -> tuple[nn.Module, Any]:
        """A model on the meta device, and a global batch of `batch` rows."""


def registered(name: str, *, batch: int, sequence: int | None,
               dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """A model by name, on the meta device, and its inputs.

    Parameters
    ----------
    name : str
        As the package that offers it says.
    batch, sequence : int
        Rows of the global batch, and tokens in each.
    dtype : torch.dtype
        Of the parameters.

    Raises
    ------
    ValueError
        When nobody offers a model of that name, or it has no sequences.
    """
    known: list[str] = []
    for point in entry_points(group=_GROUP):
        offer: Offer = point.load()
        if name in offer.names():
            return offer.example(name,
                                 batch=batch,
                                 sequence=sequence,
                                 dtype=dtype)
        known += offer.names()
    names = nearest(name, known) if known else "no installed package has any"
    raise ValueError(
        f"{name!r} is no file and no model that is known by name; give a "
        "Python file with get_model() and get_inputs(), a Hugging Face "
        f"config.json, or a name: {names}")
