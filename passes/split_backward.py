"""Pass: a joint graph becomes a forward and a backward graph.

Needs a joint graph. Leaves a forward graph that returns the results and
the saved values, and a backward graph from saved values and tangents to
operand gradients. What is marked to be recomputed is copied into the
backward graph instead of being saved; views always are, so that a gathered
parameter is not kept alive by its transpose.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from passes.differentiate import Joint

__all__ = ["SplitBlock", "is_view", "split_backward"]


@dataclass(frozen=True, kw_only=True)
class SplitBlock:
    """One rank's forward and backward graphs of a block class.

    Parameters
    ----------
    forward : fx.Graph
        Operands in; results, then saved values out.
    backward : fx.Graph or None
        Saved values, then tangents in; one gradient (or None) per operand
        out.
    saved_operands : tuple of int
        Operands that the backward reads as well; they come before the
        other saved values and need not be returned by the forward.
    gradients : tuple of int
        Operands that the backward has a gradient for.
    weight_gradient : fx.Graph or None
        Where :mod:`passes.split_weights` cut the backward: gradients of some operands, computed
        later. One gradient (or None) per operand out; the backward then
        returns None for these, and after the gradients what this reads.
    weight_reads : tuple of int
        What `weight_gradient` takes, as positions among the backward's
        placeholders followed by what the backward returns for it.
    """

    forward: fx.Graph
    backward: fx.Graph | None
    results: int
    tangents: tuple[int, ...]
    saved_operands: tuple[int, ...]
    gradients: tuple[int, ...]
    weight_gradient: fx.Graph | None = None
    weight_reads: tuple[int, ...] = ()

    def forward_only(self) -> SplitBlock:
        """The same forward without what it saves, for inference."""
        graph = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}
        for node in self.forward.nodes:
            made[node] = graph.node_copy(node, lambda n: made[n])
        output = graph.output_node()
        output.args = (output.args[0][:self.results], )
        graph.eliminate_dead_code()
        return SplitBlock(forward=graph,
                          backward=None,
                          results=self.results,
                          tangents=(),
                          saved_operands=(),
                          gradients=())


def split_backward(
        joint: Joint,
        *,
        recompute: Callable[[fx.Node], bool] = lambda n: False) -> SplitBlock:
    """Split a joint graph.

    Parameters
    ----------
    joint : Joint
    recompute : callable
        Forward node to whether the backward computes it again.
    """
    nodes = list(joint.graph.nodes)
    places = [n for n in nodes if n.op == "placeholder"]
    operands, tangents = places[:joint.operands], places[joint.operands:]
    returned = list(joint.graph.output_node().args[0])
    results, grads = returned[:joint.results], returned[joint.results:]
    ahead = _forward_nodes(nodes, results, set(tangents))
    copier = _BackwardCopier(ahead, lambda n: is_view(n) or recompute(n),
                             set(operands))
    backward = copier.build(nodes, tangents, grads)
    saved = copier.saved
    saved_operands = [n for n in saved if n in set(operands)]
    others = [n for n in saved if n not in set(operands)]
    forward = _forward_graph(nodes, ahead, results + others)
    position = {n: i for i, n in enumerate(operands)}
    return SplitBlock(forward=forward,
                      backward=backward if joint.tangents else None,
                      results=joint.results,
                      tangents=joint.tangents,
                      saved_operands=tuple(position[n]
                                           for n in saved_operands),
                      gradients=tuple(i for i, g in enumerate(grads)
                                      if g is not None))


def is_view(node: fx.Node) -> bool:
    """Whether a node gives a view of its operand, which costs nothing.

    A number may be the operand, as in the derivative of ``x * 1j``: then
    the node makes a tensor.
    """
    if not node.all_input_nodes:
        return False
    if node.target is operator.getitem:
        return is_view(node.args[0])
    if node.target is torch.ops.aten.reshape.default:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(
        r.alias_info is not None for r in schema.returns)


def _forward_nodes(nodes: list[fx.Node], results: list[fx.Node],
                   tangents: set[fx.Node]) -> set[fx.Node]:
    """What runs in the forward: all that no tangent reaches.

    Nodes that only the backward needs but that no tangent reaches run in
    the backward.
    """
    tainted = set(tangents)
    for node in nodes:
        if any(a in tainted for a in node.all_input_nodes):
            tainted.add(node)
    needed = set(results)
    for node in reversed(nodes):
        if node in needed:
            needed.update(a for a in node.all_input_nodes if a not in tainted)
            if node not in tainted and node.op == "call_function":
                needed.add(node)
    ahead = {
        n
        for n in nodes
        if n in needed and n not in tainted and n.op == "call_function"
    }
    ahead.update(n for n in nodes
                 if n.target is operator.getitem and n.args[0] in ahead)
    return ahead


def _forward_graph(nodes: list[fx.Node], ahead: set[fx.Node],
                   out: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node.op == "placeholder" and "tangent" not in node.meta:
            made[node] = graph.node_copy(node, lambda n: made[n])
        elif node in ahead:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(tuple(made[n] for n in out))
    return graph


class _BackwardCopier:
    """Copies the backward part, and what it recomputes, into a graph."""

    def __init__(self, ahead: set[fx.Node], recompute: Callable[[fx.Node],
                                                                bool],
                 operands: set[fx.Node]) -> None:
        self.ahead = ahead
        self.recompute = recompute
        self.operands = operands
        self.saved: list[fx.Node] = []

    def build(self, nodes: list[fx.Node], tangents: list[fx.Node],
              grads: list[fx.Node | None]) -> fx.Graph:
        order = {n: i for i, n in enumerate(nodes)}
        needed = self._needed(nodes, grads, set(tangents))
        again = {n for n in needed if n in self.ahead}
        read = self._inputs(needed, again) | self._given(grads, again)
        self.saved = sorted(read,
                            key=lambda n: (n not in self.operands, order[n]))
        graph = fx.Graph()
        made = {}
        for node in self.saved + tangents:
            made[node] = graph.placeholder(node.name)
            made[node].meta = dict(node.meta)
        for node in nodes:
            if node in needed and node.op == "call_function":
                made[node] = graph.node_copy(node, lambda n: made[n])
        graph.output(tuple(made[g] if g is not None else None for g in grads))
        return graph

    def _needed(self, nodes: list[fx.Node], grads: list[fx.Node | None],
                tangents: set[fx.Node]) -> set[fx.Node]:
        """Backward nodes and the forward ones that are run again."""
        needed = {g for g in grads if g is not None}
        for node in reversed(nodes):
            if node not in needed or node.op != "call_function":
                continue
            if node in self.ahead and not self.recompute(node):
                continue
            needed.update(node.all_input_nodes)
        return {
            n
            for n in needed if n.op == "call_function" and (
                n not in self.ahead or self.recompute(n))
        }

    def _given(self, grads: list[fx.Node | None],
               again: set[fx.Node]) -> set[fx.Node]:
        """Forward values that are a gradient as they stand."""
        return {
            g
            for g in grads if g is not None and g not in again and (
                g in self.ahead or g in self.operands)
        }

    def _inputs(self, needed: set[fx.Node],
                again: set[fx.Node]) -> set[fx.Node]:
        found = set()
        for node in needed:
            for arg in node.all_input_nodes:
                saved_call = arg in self.ahead and arg not in again
                if arg in self.operands or saved_call:
                    found.add(arg)
        return found
