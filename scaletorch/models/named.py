"""Models by name with a batch, as ``python -m planner.explain`` takes them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from scaletorch.models.registry import build, names

__all__ = ["example", "names"]

_TOKENS = 4096


def example(name: str, *, batch: int, sequence: int | None,
            dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """A model on the meta device, and the inputs of one global batch.

    Parameters
    ----------
    name : str
        One of `names()`.
    batch, sequence : int
        Rows, and tokens in each: the model's context, at most 4096, if
        left out.
    dtype : torch.dtype
        Of the parameters.

    Raises
    ------
    ValueError
        When a model without sequences is given their length.
    """
    with torch.device("meta"):
        model = build(name).to(dtype)
    inputs: Any = model.example_inputs
    if "sequence_length" in inspect.signature(inputs).parameters:
        context: int = model.config.context
        return model, inputs(batch, sequence or min(context, _TOKENS))
    if sequence is not None:
        raise ValueError(f"--seq: {name} has no sequences; leave it out")
    return model, inputs(batch)
