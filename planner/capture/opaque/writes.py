"""What a module that is run and not traced writes to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Watched"]


class Watched(TorchDispatchMode):
    """Tells which of some tensors were written to.

    By their versions, and whether their memory is another, as after
    ``tensor.data = value``. While it is active also by the memory that
    operators write to: ``tensor.data.add_(1)`` leaves the version alone.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.before = [(t, t._version, _memory(t)) for t in tensors]
        self.written: set[int] = set()

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            self._note(func, args, kwargs)
        return func(*args, **kwargs)

    def _note(self, func: Any, args: tuple[Any, ...],
              kwargs: dict[str, Any]) -> None:
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[number] if number < len(args) else kwargs.get(
                argument.name)
            self.written |= {
                _memory(t)
                for t in pytree.tree_leaves(value)
                if isinstance(t, torch.Tensor)
            }

    def changed(self) -> set[int]:
        """By ``id``."""
        return {
            id(t)
            for t, version, memory in self.before if t._version != version
            or _memory(t) != memory or memory in self.written
        }


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
