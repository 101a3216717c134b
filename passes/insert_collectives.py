"""Pass: make every change of layout an explicit conversion.

Needs a block graph whose calls are in the class layout. Leaves a graph in
which every operand reaches its call in the layout that the call's options
ask for, through nodes of :mod:`passes.conversions`; the calls still
have global sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from passes.conversions import conversion_nodes
from planner.ir.convert import conversion_steps
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, format_layout
from planner.ir.layouts import ClassLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import BlockClass, source_of
from planner.ir.values import (Value, calls_of, operands_of, outputs_of,
                               value_of)

__all__ = ["insert_collectives"]


@dataclass(slots=True)
class _Copy:
    """The graph being built, and where each value lies in which layout."""

    mesh: MeshSpec
    graph: fx.Graph = field(default_factory=fx.Graph)
    found: dict[tuple[Value, Layout], fx.Node] = field(default_factory=dict)
    hubs: dict[Value, Layout] = field(default_factory=dict)

    def convert(self, value: Value, node: fx.Node, source: Layout,
                target: Layout) -> fx.Node:
        """The node that holds `value` in `target`, made at most once."""
        if (value, target) in self.found:
            return self.found[value, target]
        steps = conversion_steps(source,
                                 target,
                                 differentiable=value.spec.requires_grad)
        if steps is None:
            raise LayoutError(
                f"{value} of shape {value.spec.shape} can't go from "
                f"{format_layout(source)} to {format_layout(target)}, at "
                f"{source_of(value.node)}: an inner axis shards the same "
                "dim; choose another dim for one of the axes")
        made = conversion_nodes(self.graph, node, steps, self.mesh)
        for step_node in made:
            step_node.meta["value"] = value
        node = made[-1] if made else node
        self.found[value, target] = node
        return node


def insert_collectives(block_class: BlockClass, layout: ClassLayout,
                       mesh: MeshSpec, at_rest: Mapping[str,
                                                        Layout]) -> fx.Graph:
    """Insert the conversions of one block class.

    Parameters
    ----------
    block_class : BlockClass
    layout : ClassLayout
    mesh : MeshSpec
    at_rest : mapping of str to Layout
        Layout in which each placeholder arrives, by label, where that is
        not its hub.

    Raises
    ------
    LayoutError
        When a conversion can't be expressed.
    """
    copy = _Copy(mesh)
    made: dict[fx.Node, fx.Node] = {}
    for node in block_class.placeholders:
        made[node] = copy.graph.placeholder(node.name)
        made[node].meta = dict(node.meta)
        value = Value(node)
        hub = layout.hubs[node.meta["label"]]
        arrives = at_rest.get(node.meta["label"], hub)
        made[node].meta["layout"] = arrives
        copy.hubs[value] = hub
        copy.found[value, hub] = copy.convert(value, made[node], arrives, hub)
    for node in calls_of(block_class.graph):
        _copy_call(copy, node, layout, made)
    results = tuple(_held(copy, value_of(n)) for n in block_class.results)
    copy.graph.output(results)
    copy.graph.output_node().meta["layout"] = tuple(
        copy.hubs[value_of(n)] for n in block_class.results)
    return copy.graph


def _held(copy: _Copy, value: Value) -> fx.Node:
    return copy.found[value, copy.hubs[value]]


def _copy_call(copy: _Copy, node: fx.Node, layout: ClassLayout,
               made: dict[fx.Node, fx.Node]) -> None:
    chosen = layout.calls[node.meta["label"]]
    operands = iter([
        copy.convert(value, _held(copy, value), copy.hubs[value],
                     chosen.input(number))
        for number, value in enumerate(operands_of(node))
    ])
    args, kwargs = fx.map_arg((node.args, node.kwargs),
                              lambda _: next(operands))
    call = copy.graph.create_node("call_function",
                                  node.target,
                                  args,
                                  kwargs,
                                  name=node.name)
    call.meta = dict(node.meta)
    call.meta["options"] = chosen.options
    call.meta["node"] = node
    made[node] = call
    many = isinstance(node.meta["spec"], tuple)
    for number, value in enumerate(outputs_of(node)):
        out = call
        if many:
            out = copy.graph.call_function(operator.getitem,
                                           (call, value.index))
        produced = chosen.output(number)
        hub = layout.hubs.get(value.label, produced)
        copy.found[value, produced] = out
        copy.hubs[value] = hub
        copy.convert(value, out, produced, hub)
