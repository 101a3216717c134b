"""The state of layers that are mentioned only: no part of what is exported.

``torch.export`` takes as long as there are parameters and buffers. Those of
a layer that is copied in the end need not be among them: they are where they
always are while the model's Python runs, and nowhere before and after that.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["Withheld"]


class Withheld:
    """State of some modules, which they have while the model runs only.

    Parameters
    ----------
    root : nn.Module
        What is exported.
    layers : iterable of (nn.Module, nn.Module)
        Modules in `root`, and those whose state looks the same. What has
        state that goes by other names too keeps it.

    Attributes
    ----------
    names : dict of int to str
        Of what is withheld, by the ``id`` of the tensor: ``param:NAME`` or
        ``buffer:NAME``, with the names of `root`.
    like : dict of str to str
        The name of what looks the same, by each of these names.
    """

    def __init__(self, root: nn.Module,
                 layers: Iterable[tuple[nn.Module, nn.Module]]) -> None:
        self.names: dict[int, str] = {}
        self.like: dict[str, str] = {}
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        paths = {id(m): path for path, m in root.named_modules()}
        times = Counter(id(t) for _, t in _state(root))
        for layer, other in layers:
            own = list(_state(layer, paths[id(layer)]))
            if any(times[id(t)] > 1 for _, t in own):
                continue
            self.names |= {id(t): name for name, t in own}
            like = (name for name, _ in _state(other, paths[id(other)]))
            self.like |= zip((name for name, _ in own), like, strict=True)
            self._tables += [(table, dict(table)) for m in layer.modules()
                             for table in (m._parameters, m._buffers)]

    @contextlib.contextmanager
    def taken_off(self) -> Iterator[None]:
        """Before and after the model runs."""
        self._take_off()
        try:
            yield
        finally:
            self._put_back()

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """While it runs."""
        self._put_back()
        try:
            yield
        finally:
            self._take_off()

    def _take_off(self) -> None:
        for table, _ in self._tables:
            table.clear()

    def _put_back(self) -> None:
        for table, content in self._tables:
            table.update(content)


def _state(module: nn.Module,
           path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by every name that they have."""
    for name, tensor in module.named_parameters(path, remove_duplicate=False):
        yield f"param:{name}", tensor
    for name, tensor in module.named_buffers(path, remove_duplicate=False):
        yield f"buffer:{name}", tensor
