"""What a loader reads samples from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

__all__ = ["Augmented", "Sample", "Source"]

Sample = dict[str, torch.Tensor]
"""Tensors by the names that the model gives its inputs; no batch dim."""


@runtime_checkable
class Source(Protocol):
    """A number of samples, each found by its index."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int) -> Sample:
        """A sample; the same one at every call."""


@runtime_checkable
class Augmented(Protocol):
    """A source whose samples differ from epoch to epoch."""

    def __len__(self) -> int:
        """How many samples there are."""

    def augmented(self, index: int, seed: int) -> Sample:
        """A sample as it looks under a seed.

        Parameters
        ----------
        index : int
        seed : int
            Of the loader, the epoch and the sample, so that whoever loads
            the sample sees the same.
        """
