"""Values of a graph's nodes, where they follow from known ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from planner.capture.known_values import Examples
from planner.capture.opaque.trial import TRIALS, made_up

__all__ = ["examples"]


def examples(graph: fx.Graph, wanted: Sequence[fx.Node],
             known: Mapping[fx.Node, torch.Tensor]) -> Examples:
    """Values that nodes may have, for every trial.

    What depends on parameters is made up, and another each time: shapes
    that follow from it contradict each other.

    Parameters
    ----------
    graph : fx.Graph
    wanted : sequence of Node
    known : mapping of Node to Tensor
        Values of placeholders.
    """
    needed = set(wanted)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    values = dict(known)
    with _disable_current_modes(), torch.no_grad():
        for node in graph.nodes:
            if node in needed and node.op == "call_function" and all(
                    n in values for n in node.all_input_nodes):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs),
                                               values.__getitem__)
                values[node] = node.target(*args, **kwargs)
        return [[
            values[n].clone() if n in values else _like(n.meta["val"], trial)
            for n in wanted
        ] for trial in range(TRIALS)]


def _like(value: torch.Tensor, trial: int) -> torch.Tensor:
    return made_up(tuple(value.shape), value.stride(), value.dtype, trial)
