"""What a model returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

__all__ = ["Output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The loss where labels were given, the logits where they were not.

    Never both: a parallel program gives every rank, whole, what its model
    returns, and in training nobody looks at the logits, which of a
    language model are its largest value.

    Parameters
    ----------
    loss : Tensor, optional
        A scalar.
    logits : Tensor, optional
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


pytree.register_dataclass(
    Output, serialized_type_name="scaletorch.models.output.Output")
