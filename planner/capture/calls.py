"""Calls that a normalisation puts in the place of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

__all__ = ["CallsBefore", "add_call", "become"]


def add_call(graph: fx.Graph,
             target: Any,
             args: tuple[Any, ...],
             kwargs: Mapping[str, Any] | None = None,
             *,
             like: fx.Node) -> fx.Node:
    """Insert a call where the graph inserts, with the source of `like`."""
    node = graph.call_function(target, args, dict(kwargs or {}))
    node.meta = dict(like.meta)
    values, keywords = fx.node.map_arg((node.args, node.kwargs),
                                       lambda n: n.meta["val"])
    known = pytree.tree_leaves((values, keywords, node.meta["val"]))
    with next(v for v in known if isinstance(v, FakeTensor)).fake_mode:
        node.meta["val"] = target(*values, **keywords)
    return node


@dataclass(frozen=True, slots=True)
class CallsBefore:
    """Inserts calls before a node, on whose behalf they are made."""

    node: fx.Node

    def add(self,
            target: Any,
            *args: Any,
            dtype: torch.dtype | None = None) -> fx.Node:
        kwargs = {} if dtype is None else {"dtype": dtype}
        graph = self.node.graph
        with graph.inserting_before(self.node):
            return add_call(graph, target, args, kwargs, like=self.node)


def become(node: fx.Node,
           target: Any,
           args: tuple[Any, ...],
           kwargs: Mapping[str, Any] | None = None) -> None:
    """Another call of the same value; outputs of the graph stay nodes."""
    node.target, node.args, node.kwargs = target, args, dict(kwargs or {})
