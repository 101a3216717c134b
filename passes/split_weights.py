"""Pass: a backward graph is cut into gradients needed now and later.

Needs a split block. Leaves a backward with the gradients that go on to
other blocks, and a third graph with those of some operands (weights),
which a pipeline schedule may run when it would otherwise wait. Source: Qi
et al., Zero Bubble Pipeline Parallelism, 2023.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Sequence

from torch import fx

from passes.split_backward import SplitBlock

__all__ = ["split_weights"]


def split_weights(split: SplitBlock, weights: Collection[int]) -> SplitBlock:
    """Cut some operands' gradients off the backward, to be run later.

    What both parts need is computed in the first.

    Parameters
    ----------
    split : SplitBlock
    weights : collection of int
        Operands; others than those with a gradient are ignored.
    """
    if split.backward is None:
        return split
    nodes = list(split.backward.nodes)
    grads = list(split.backward.output_node().args[0])
    now = [None if i in weights else g for i, g in enumerate(grads)]
    later = [g if i in weights else None for i, g in enumerate(grads)]
    first = _reached(nodes, now)
    rest = _reached(nodes, later) - first
    places = [n for n in nodes if n.op == "placeholder"]
    read = {a for n in rest for a in n.all_input_nodes if a not in rest}
    read |= {g for g in later if g is not None and g not in rest}
    passed = [n for n in nodes if n in read and n in first]
    sources = [n for n in (*places, *passed) if n in read]
    positions = {n: i for i, n in enumerate((*places, *passed))}
    return dataclasses.replace(split,
                               backward=_slice(nodes, places, first,
                                               [*now, *passed]),
                               weight_gradient=_slice(nodes, sources, rest,
                                                      later),
                               weight_reads=tuple(positions[n]
                                                  for n in sources))


def _reached(nodes: list[fx.Node],
             wanted: Sequence[fx.Node | None]) -> set[fx.Node]:
    """The calls that `wanted` need, with the picks of their outputs."""
    needed = {n for n in wanted if n is not None}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    needed.update(n for n in nodes
                  if n.target is operator.getitem and n.args[0] in needed)
    return {n for n in needed if n.op == "call_function"}


def _slice(nodes: list[fx.Node], sources: Sequence[fx.Node],
           kept: set[fx.Node], out: Sequence[fx.Node | None]) -> fx.Graph:
    """A graph of some nodes, with `sources` as placeholders."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in sources:
        made[node] = graph.placeholder(node.name)
        made[node].meta = dict(node.meta)
    for node in nodes:
        if node in kept:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(tuple(None if n is None else made[n] for n in out))
    return graph
