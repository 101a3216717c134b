"""What a captured program takes for granted, checked at every call.

A trace bakes in whatever Python read from the modules: numbers, flags,
plain tensors, also in lists, dicts and objects that hang on them (a config)
and on their classes, and which modules there are. A program must not outlive
them.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from planner.capture.containers import (Container, classes_of, items, members,
                                        settings)

__all__ = ["Settings", "digest"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
          "_backward_pre_hooks")
_Held = Container | MappingProxyType[str, Any]
_PLAIN = (bool, int, float, complex, str, type(None))


class Settings:
    """The attributes of a model's modules, numbered by what they were.

    Parameters
    ----------
    structure : nn.Module
    """

    def __init__(self, structure: nn.Module) -> None:
        modules = list(structure.named_modules(remove_duplicate=False))
        self._children = [(path, m._modules, tuple(m._modules.items()))
                          for path, m in modules]
        self._hooks = [(path, table, len(table)) for path, m in modules
                       for table in map(m.__dict__.__getitem__, _HOOKS)]
        self._structure = structure
        self._kinds = classes_of(structure)
        self._known: dict[tuple[Any, ...], int] = {}
        # The ids of tensors that are gone would be given to others.
        self._held: list[torch.Tensor] = []
        self._last: _Last | None = None
        self.number()

    def number(self) -> int:
        """How many other settings were met before the present ones.

        Equal on ranks whose modules changed in the same way, also where
        some attribute differs between ranks.

        Raises
        ------
        RuntimeError
            When modules were added, removed or replaced, or got hooks.
        """
        for path, table, count in self._hooks:
            if len(table) != count:
                raise RuntimeError(
                    f"a hook of {path or 'the model'} was added or removed "
                    "after auto_parallelize, and would not run: the compiled "
                    "program does, not the module. Register forward hooks "
                    "before, which makes them part of the program, or on the "
                    "parallel module itself; return what you want to look at")
        for path, table, before in self._children:
            if tuple(table.items()) != before:
                raise RuntimeError(
                    f"the modules inside of {path or 'the model'} are not "
                    "those that were parallelised; change the single-device "
                    "model and call auto_parallelize again")
        if self._last is None or not self._last.holds():
            held: list[_Held] = [m.__dict__ for m in self._structure.modules()]
            held += settings(self._structure)
            held += map(vars, self._kinds)
            number, tensors = self._looked_through(held)
            self._last = _Last(held, tensors, number)
        return self._last.number

    def _looked_through(
            self, held: Sequence[_Held]) -> tuple[int, list[torch.Tensor]]:
        tensors: list[torch.Tensor] = []
        present = tuple(
            tuple((key, _seen(value, tensors))
                  for key, value in items(container)
                  if key != "training" and isinstance(value, (*_PLAIN,
                                                              torch.Tensor)))
            for container in held)
        if present not in self._known:
            self._known[present] = len(self._known)
            self._held += tensors
        return self._known[present], tensors


class _Last:
    """What was held last time, to see at once that nothing was assigned and
    no tensor written to since."""

    def __init__(self, held: Sequence[_Held], tensors: Sequence[torch.Tensor],
                 number: int) -> None:
        self.number = number
        self._held = [(c, tuple(c), tuple(members(c))) for c in held]
        self._tensors = tensors
        self._versions = [_version(t) for t in tensors]

    def holds(self) -> bool:
        versions = [_version(t) for t in self._tensors]
        return versions == self._versions and all(
            _holds(now, keys, values) for now, keys, values in self._held)


def _holds(now: _Held, keys: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    if isinstance(now, (dict, MappingProxyType)) and tuple(now) != keys:
        return False
    return len(now) == len(keys) and all(
        map(operator.is_, values, members(now)))


def _seen(value: Any, tensors: list[torch.Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    tensors.append(value)
    return id(value), _version(value)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def digest(tensors: Sequence[torch.Tensor]) -> str:
    """A hash of values, for ranks to compare."""
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().resolve_conj().cpu().reshape(-1).contiguous()
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
