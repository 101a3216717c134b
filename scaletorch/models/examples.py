"""Inputs to plan and to try models with: the same ones at every call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["example_integers", "example_tokens", "example_values"]


def example_integers(model: nn.Module,
                     shape: Sequence[int],
                     high: int,
                     *,
                     seed: int = 0) -> torch.Tensor:
    """Random integers, on the device of the model's parameters.

    Parameters
    ----------
    model : nn.Module
        On the meta device they have no values.
    shape : sequence of int
    high : int
        Above the largest.
    seed : int

    Returns
    -------
    Tensor
        int64, of that shape.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        return torch.empty(*shape, dtype=torch.int64, device=device)
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(high, tuple(shape), generator=generator,
                         device="cpu").to(device)


def example_tokens(model: nn.Module, shape: Sequence[int],
                   high: int) -> dict[str, torch.Tensor]:
    """Tokens of a language model, which are their own labels."""
    tokens = example_integers(model, shape, high)
    return {"tokens": tokens, "labels": tokens}


def example_values(model: nn.Module,
                   shape: Sequence[int],
                   *,
                   seed: int = 0) -> torch.Tensor:
    """Random normal values, in the dtype and on the device of the parameters.

    Parameters
    ----------
    model : nn.Module
        On the meta device they have no values.
    shape : sequence of int
    seed : int

    Returns
    -------
    Tensor
        Of that shape.
    """
    parameter = next(model.parameters())
    if parameter.is_meta:
        return parameter.new_empty(tuple(shape), requires_grad=False)
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.randn(*shape,
                         generator=generator,
                         dtype=torch.float64,
                         device="cpu")
    return values.to(parameter.device, parameter.dtype)
