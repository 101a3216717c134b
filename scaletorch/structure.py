"""The model's structure without its tensors' values.

A parallel module holds a copy of the model's modules, so that names,
classes, modes and hooks are the user's, in whose tables the distributed
parameters lie. While it is captured, meta tensors take their places.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["Slots", "on_meta", "skeleton", "slots_of"]

Slots = dict[int, list[tuple[dict[str, Any], str]]]
"""Where each tensor, by its id, stands: (table, key) pairs."""


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model whose tensors are on meta; ties are kept."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = _meta(tensor)
    return copy.deepcopy(model, memo)


def slots_of(module: nn.Module) -> Slots:
    """Every place of every parameter and buffer, tied ones together."""
    slots: Slots = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    slots.setdefault(id(tensor), []).append((table, key))
    return slots


def put(slots: Slots, tensors: Mapping[int, torch.Tensor]) -> None:
    """Place tensors where those with the given ids stood."""
    for number, tensor in tensors.items():
        for table, key in slots[number]:
            table[key] = tensor


@contextlib.contextmanager
def on_meta(module: nn.Module) -> Iterator[nn.Module]:
    """The module with meta tensors of the global shapes, for a while."""
    slots = slots_of(module)
    real = {n: places[0][0][places[0][1]] for n, places in slots.items()}
    put(slots, {n: _meta(t) for n, t in real.items()})
    try:
        yield module
    finally:
        put(slots, real)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(tensor.shape,
                               tensor.stride(),
                               dtype=tensor.dtype,
                               device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
