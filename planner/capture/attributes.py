"""What hangs on modules: to put it back, and to tell what a call leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.state import computed_before

__all__ = ["Attributes"]

_TABLES = ("_parameters", "_buffers", "_modules")


class Attributes:
    """Remembers what a module and those inside of it hold.

    Also what is in dicts and lists that hang on them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._own = [(path, m.__dict__, dict(m.__dict__))
                     for path, m in module.named_modules()]
        self._inner = [(f"{path}.{name}".removeprefix("."), value,
                        value.copy()) for path, _, before in self._own
                       for name, value in before.items()
                       if isinstance(value, (dict, list))]

    def restore(self) -> None:
        """Put everything back."""
        for _, now, before in (*self._own, *self._inner):
            now.clear()
            (now.update if isinstance(now, dict) else now.extend)(before)

    def left(self) -> tuple[str, ...]:
        """Where there are tensors now that were not there before.

        Parameters, buffers and weights that hooks compute before each call
        are not meant.
        """
        named = [
            (f"{path}.{name}".removeprefix("."), value)
            for path, now, before in self._own for name, value in now.items()
            if name not in (*_TABLES,
                            *_by_hooks(now)) and value is not before.get(name)
        ]
        named += [(path, value) for path, now, before in self._inner
                  if path.rpartition(".")[2] not in _TABLES
                  for value in _new(now, before)]
        return tuple(
            dict.fromkeys(path for path, value in named if any(
                isinstance(x, torch.Tensor)
                for x in pytree.tree_leaves(value))))


def _by_hooks(attributes: dict[str, Any]) -> set[str]:
    return computed_before(attributes["_forward_pre_hooks"].values())


def _new(now: Any, before: Any) -> Iterator[Any]:
    known = set(map(id, _members(before)))
    return (x for x in _members(now) if id(x) not in known)


def _members(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
