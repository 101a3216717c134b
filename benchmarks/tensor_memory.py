"""The most memory that tensors take at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["peak_bytes", "storage_bytes"]

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of some tensors, each once."""
    found = {
        s.data_ptr(): s.nbytes()
        for s in (t.untyped_storage() for t in tensors)
    }
    return sum(found.values())


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most bytes alive at once of storages that `run` makes."""
    with _Tracker() as tracker:
        run()
    return tracker.peak_bytes


class _Tracker(TorchDispatchMode):
    """Notes every storage that operators make, until it is freed or emptied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._live = weakref.WeakValueDictionary[int, torch.UntypedStorage]()

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        del types
        given = {
            id_
            for x in pytree.tree_leaves((args, kwargs)) if type(x) in _PLAIN
            for id_ in [_pointer(x)]
        }
        out = func(*args, **(kwargs or {}))
        for x in pytree.tree_leaves(out):
            # Distributed tensors are wrappers; what they hold is seen too.
            if type(x) in _PLAIN and _pointer(x) not in given:
                self._note(x)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        pointer = _pointer(tensor)
        if pointer not in self._live:
            self._live[pointer] = tensor.untyped_storage()
            live = sum(s.nbytes() for s in self._live.values())
            self.peak_bytes = max(self.peak_bytes, live)


def _pointer(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
