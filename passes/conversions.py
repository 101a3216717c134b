"""Conversions as nodes of a graph, before they are differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from planner.ir.convert import Step
from planner.ir.layout import Placement, parse_placement
from planner.ir.mesh import MeshSpec

__all__ = ["convert_node", "conversion_nodes", "step_placements"]


def convert_node(x: Any, *, axis: str, source: str, target: str) -> Any:
    """Marks a conversion; the differentiate pass gives it sense."""
    raise AssertionError(
        f"conversion over {axis} from {source} to {target} was not lowered")


def conversion_nodes(graph: fx.Graph, node: fx.Node, steps: Sequence[Step],
                     mesh: MeshSpec) -> list[fx.Node]:
    """Append one conversion of `node` for each step, one after the other."""
    made = []
    for step in steps:
        node = graph.create_node("call_function",
                                 convert_node, (node, ), {
                                     "axis": mesh.names[step.axis],
                                     "source": str(step.source),
                                     "target": str(step.target)
                                 },
                                 name="convert")
        made.append(node)
    return made


def step_placements(node: fx.Node) -> tuple[Placement, Placement]:
    """Source and target placement of a conversion node."""
    return (parse_placement(str(node.kwargs["source"])),
            parse_placement(str(node.kwargs["target"])))
