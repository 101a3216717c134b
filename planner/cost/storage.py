"""Which memory the nodes of a traced graph hold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["Storages", "storage_key", "tensors_of"]


def tensors_of(node: fx.Node) -> Iterator[torch.Tensor]:
    """The (fake) tensors that a node gives."""
    for leaf in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(leaf, torch.Tensor):
            yield leaf


def storage_key(tensor: torch.Tensor) -> int:
    """The same for all views of one piece of memory."""
    return int(tensor.untyped_storage()._cdata)


class Storages:
    """The storages of a graph's nodes, by number, with their bytes.

    ``wait_tensor`` gives its input's memory, though its fake result has a
    storage of its own.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.size_bytes: dict[int, int] = {}
        self._of: dict[fx.Node, tuple[int, ...]] = {}
        same: dict[int, int] = {}
        for node in graph.nodes:
            tensors = list(tensors_of(node))
            if "wait_tensor" in str(node.target) and tensors:
                same[storage_key(tensors[0])] = self.of(
                    node.all_input_nodes[0])[0]
            keys = []
            for tensor in tensors:
                key = storage_key(tensor)
                key = same.get(key, key)
                size_bytes = tensor.untyped_storage().nbytes()
                self.size_bytes.setdefault(key, size_bytes)
                keys.append(key)
            self._of[node] = tuple(dict.fromkeys(keys))

    def of(self, node: fx.Node) -> tuple[int, ...]:
        """Storages of what a node gives."""
        return self._of[node]

    def total_bytes(self, keys: set[int]) -> int:
        """Bytes of a set of storages."""
        return sum(self.size_bytes[key] for key in keys)
