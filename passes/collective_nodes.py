"""Collectives in a traced graph, and what they do to shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

__all__ = ["Collective", "collectives_of"]

_OPS = torch.ops._c10d_functional
_GROUP = {
    _OPS.all_reduce.default: 2,
    _OPS.all_gather_into_tensor.default: 2,
    _OPS.reduce_scatter_tensor.default: 3,
    _OPS.all_to_all_single.default: 3,
}
"""Position of the group among the arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective node: its axis and its input's and output's shape."""

    node: fx.Node
    axis: str
    source: tuple[int, ...]
    target: tuple[int, ...]

    def __str__(self) -> str:
        name = self.node.target._opname
        return f"{name}[{self.axis}] {self.source} -> {self.target}"

    def misfit(self, size: int) -> str | None:
        """What is wrong with its shapes on an axis of `size` ranks."""
        wanted = self._wanted(size)
        if wanted == self.target and self._split_fits(size):
            return None
        return f"{self} on {size} ranks"

    def _wanted(self, size: int) -> tuple[int, ...] | None:
        """The output's shape; None where the input does not divide."""
        target = self.node.target
        if target is _OPS.all_gather_into_tensor.default:
            return (self.source[0] * size, *self.source[1:])
        if target is _OPS.reduce_scatter_tensor.default:
            if self.source[0] % size:
                return None
            return (self.source[0] // size, *self.source[1:])
        return self.source

    def _split_fits(self, size: int) -> bool:
        """Whether the sizes among its arguments are those of the axis."""
        args, target = self.node.args, self.node.target
        if target is _OPS.all_gather_into_tensor.default:
            return args[1] == size
        if target is _OPS.reduce_scatter_tensor.default:
            return args[2] == size
        if target is _OPS.all_to_all_single.default:
            return all(
                len(parts) == size and sum(parts) == whole
                for parts, whole in ((args[1], self.target[0]),
                                     (args[2], self.source[0])))
        return True


def collectives_of(graph: fx.Graph) -> Iterator[Collective]:
    """The collectives of a graph in order."""
    for node in graph.nodes:
        if node.target in _GROUP:
            source = node.args[0].meta["val"]
            yield Collective(node=node,
                             axis=node.args[_GROUP[node.target]],
                             source=tuple(source.shape),
                             target=tuple(node.meta["val"].shape))
