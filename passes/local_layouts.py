"""In which layout each node of a local forward graph lies."""

from __future__ import annotations

from torch import fx

from passes.conversions import convert_node, step_placements
from planner.ir.layout import Layout
from planner.ir.layouts import CallLayout
from planner.ir.mesh import MeshSpec
from planner.ir.values import Value, is_getitem, outputs_of
from planner.rules.registry import TensorSpec

__all__ = ["converted", "layouts_of", "specs_of"]


def layouts_of(graph: fx.Graph, mesh: MeshSpec) -> dict[fx.Node, Layout]:
    """Follow placeholders, options and conversions through a graph.

    Calls with several outputs have no layout; what is picked of them has.
    """
    found: dict[fx.Node, Layout] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            found[node] = node.meta["layout"]
        elif node.target is convert_node:
            found[node] = converted(node, found[node.args[0]], mesh)
        elif node.op == "call_function":
            value = _made(node)
            if value is not None:
                found[node] = _output(value, _call(node))
    return found


def specs_of(graph: fx.Graph) -> dict[fx.Node, TensorSpec]:
    """Global shape and dtype of each node that is one tensor."""
    found: dict[fx.Node, TensorSpec] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            found[node] = node.meta["spec"]
        elif node.target is convert_node:
            found[node] = node.meta["value"].spec
        elif node.op == "call_function":
            value = _made(node)
            if value is not None:
                found[node] = value.spec
    return found


def converted(node: fx.Node, layout: Layout, mesh: MeshSpec) -> Layout:
    """The layout behind a conversion of something in `layout`."""
    axis = mesh.index(str(node.kwargs["axis"]))
    _, target = step_placements(node)
    return (*layout[:axis], target, *layout[axis + 1:])


def _call(node: fx.Node) -> fx.Node:
    return node.args[0] if is_getitem(node) else node


def _made(node: fx.Node) -> Value | None:
    """The value of the block's own graph that a node holds."""
    if is_getitem(node):
        call, index = node.args
        return Value(call.meta["node"], index)
    many = isinstance(node.meta["spec"], tuple)
    return None if many else Value(node.meta["node"])


def _output(value: Value, call: fx.Node) -> Layout:
    number = outputs_of(value.node).index(value)
    return CallLayout(options=call.meta["options"]).output(number)
