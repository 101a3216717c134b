"""The model's structure without its tensors' values.

A parallel module holds a copy of the model's modules, so that names,
classes, modes and hooks are the user's, in whose tables the distributed
parameters lie. While it is captured, meta tensors take their places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from planner.capture.copies import copied

__all__ = [
    "Absent", "Slots", "on_meta", "places_of", "put", "skeleton", "slots_of",
    "with_own_tensors"
]

Slots = dict[int, list[tuple[dict[str, Any], str]]]
"""Where each tensor, by its id, stands: (table, key) pairs."""


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model whose tensors are on meta; ties are kept."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = _meta(tensor)
    return copied(model, memo)


def with_own_tensors(model: nn.Module) -> nn.Module:
    """A copy of the model and its tensors' values; ties are kept."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        own = tensor.detach().clone()
        if isinstance(tensor, nn.Parameter):
            own = nn.Parameter(own, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = own
    return copied(model, memo)


def slots_of(module: nn.Module) -> Slots:
    """Every place of every parameter and buffer, tied ones together."""
    slots: Slots = {}
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    slots.setdefault(id(tensor), []).append((table, key))
    return slots


def places_of(module: nn.Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Where every parameter and buffer stands, by its global name."""
    places = {}
    for kind, named in (("param",
                         module.named_parameters(remove_duplicate=False)),
                        ("buffer",
                         module.named_buffers(remove_duplicate=False))):
        for name, _ in named:
            owner, _, key = name.rpartition(".")
            found = module.get_submodule(owner)
            table = found._parameters if kind == "param" else found._buffers
            places[f"{kind}:{name}"] = (table, key)
    return places


def put(slots: Slots, tensors: Mapping[int, torch.Tensor]) -> None:
    """Place tensors where those with the given ids stood."""
    for number, tensor in tensors.items():
        for table, key in slots[number]:
            table[key] = tensor


class Absent:
    """Parameters and buffers of a module that other ranks hold.

    Parameters
    ----------
    module : nn.Module
        From which they are taken; their places keep None.
    names : collection of str
    """

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self._places: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        for name in sorted(names):
            owner, _, key = name.rpartition(".")
            found = module.get_submodule(owner)
            table = (found._parameters
                     if key in found._parameters else found._buffers)
            self._places.append((table, key, table[key]))
        self._take()

    def _take(self) -> None:
        for table, key, _ in self._places:
            table[key] = None

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Have them back, on meta, for a while."""
        for table, key, tensor in self._places:
            table[key] = tensor
        try:
            yield
        finally:
            self._take()


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
