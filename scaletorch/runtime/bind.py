"""From a lowered graph to a function: groups and random streams bound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from passes.split_backward import SplitBlock
from scaletorch.runtime.random import SeededCall

__all__ = ["BoundKernel", "bind"]


class BoundKernel:
    """A kernel's forward and backward as Python functions.

    ``forward(seed, *operands)`` gives results, then saved values;
    ``backward(seed, *saved, *tangents)`` gives one gradient per operand.
    """

    def __init__(self, split: SplitBlock, groups: Mapping[str, str],
                 coordinates: Mapping[str, int], *,
                 compile: bool = False) -> None:
        self.split = split
        self.results = split.results
        self.tangents = split.tangents
        self.saved_operands = split.saved_operands
        self.gradients = split.gradients
        self.tangent_metas = [] if split.backward is None else [
            n.meta["val"] for n in split.backward.nodes
            if n.op == "placeholder" and "tangent" in n.meta]
        self.draws = any(_stream(n) for n in split.forward.nodes)
        self.forward = bind(split.forward, groups, coordinates,
                            compile=compile)
        self.backward = None if split.backward is None else bind(
            split.backward, groups, coordinates, compile=compile)


def bind(graph: fx.Graph, groups: Mapping[str, str],
         coordinates: Mapping[str, int], *,
         compile: bool = False) -> Callable[..., tuple[Any, ...]]:
    """Make a graph callable.

    Parameters
    ----------
    graph : fx.Graph
    groups : mapping of str to str
        Process group name of each mesh axis.
    coordinates : mapping of str to int
        This rank's place on each axis.
    compile : bool
        Whether to run it through ``torch.compile``.
    """
    bound = fx.Graph()
    seed = bound.placeholder("seed")
    made: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        made[node] = bound.node_copy(node, lambda n: made[n])
        if node.op != "call_function":
            continue
        if "_c10d_functional" in str(node.target):
            _bind_group(made[node], groups)
        elif _stream(node) is not None:
            _bind_stream(made[node], seed, coordinates)
    module = fx.GraphModule(torch.nn.Module(), bound)
    if compile:
        return torch.compile(module, fullgraph=True, dynamic=False)
    return module.forward


def _bind_group(node: fx.Node, groups: Mapping[str, str]) -> None:
    node.args = tuple(groups.get(a, a) if isinstance(a, str) else a
                      for a in node.args)


def _stream(node: fx.Node) -> tuple[str, tuple[str, ...]] | None:
    """The random stream of a node that draws numbers."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags:
        return None
    return (node.meta.get("custom") or {}).get("random")


def _bind_stream(node: fx.Node, seed: fx.Node,
                 coordinates: Mapping[str, int]) -> None:
    """Where the call is sharded each rank draws its own numbers."""
    stream = _stream(node)
    assert stream is not None
    label, axes = stream
    place = ",".join(f"{a}={coordinates[a]}" for a in axes)
    text = f"{label}|{node.name}|{place}".encode()
    salt = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
    node.target = SeededCall(node.target, salt)
    node.args = (seed, *node.args)
