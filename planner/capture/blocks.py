"""Cut the model graph into blocks and find the ones that are alike.

A block is a run of nodes that belong to the same child of a module list
(decoder layers, stages of a ``Sequential``); what lies between is a block
of its own. Two blocks are of one class when their graphs are equal up to
the names of the values bound to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from planner.ir.program import Block, BlockClass, value_kind

__all__ = ["cut_blocks", "repeated_child"]


def repeated_child(model: nn.Module, path: str) -> str:
    """The prefix of `path` that names a child of the first module list.

    Empty when `path` runs through no ``ModuleList`` or ``Sequential`` of
    several children, or when that child is a single layer (a block of one
    operator costs more than it explains).
    """
    module: nn.Module | None = model
    parts = path.split(".") if path else []
    for depth, part in enumerate(parts):
        if isinstance(module, (nn.ModuleList, nn.Sequential)) \
                and len(module) > 1:
            child = getattr(module, part, None)
            inner = child is not None and any(True for _ in child.children())
            return ".".join(parts[:depth + 1]) if inner else ""
        module = getattr(module, part, None)
    return ""


@dataclass(slots=True)
class _Segment:
    key: str
    nodes: list[fx.Node] = field(default_factory=list)


def _segments(nodes: Iterable[fx.Node], key: Callable[[fx.Node],
                                                      str]) -> list[_Segment]:
    segments: list[_Segment] = []
    for node in nodes:
        name = key(node)
        if not segments or segments[-1].key != name:
            segments.append(_Segment(name))
        segments[-1].nodes.append(node)
    return segments


def cut_blocks(
    nodes: Sequence[fx.Node], *, key: Callable[[fx.Node], str],
    class_name: Callable[[str], str], leaf_names: Mapping[fx.Node, str],
    live_out: Iterable[fx.Node]
) -> tuple[dict[str, BlockClass], tuple[Block, ...], dict[fx.Node, str]]:
    """Cut `nodes` (in order) into blocks of block classes.

    Parameters
    ----------
    nodes : sequence of Node
        The calls of the model graph, each with ``meta["spec"]``.
    key : callable
        Node to the name of the repeated child it belongs to, or "".
    class_name : callable
        Repeated child to the name its class should have.
    leaf_names : mapping
        Global names of placeholders and constants.
    live_out : iterable of Node
        Values that the whole graph returns.

    Returns
    -------
    classes, blocks, names
        `names` maps every value that crosses a block boundary to its
        global name.
    """
    segments = _segments(nodes, key)
    owner = {n: i for i, s in enumerate(segments) for n in s.nodes}
    crossing = set(live_out)
    for node in nodes:
        crossing.update(a for a in node.all_input_nodes
                        if owner.get(a, owner[node]) != owner[node])
    names = dict(leaf_names)
    classes: dict[str, BlockClass] = {}
    by_hash: dict[str, str] = {}
    blocks = []
    labels = _labels(segments)
    for segment, label in zip(segments, labels, strict=True):
        operands = _operands(segment.nodes)
        results = [n for n in segment.nodes if n in crossing]
        digest = _digest(segment.nodes, operands, results, names)
        if digest not in by_hash:
            unique = _unique(class_name(segment.key), classes)
            by_hash[digest] = unique
            graph = _extract(segment.nodes, operands, results, names)
            _label_nodes(graph)
            classes[unique] = BlockClass(name=unique, graph=graph)
        cls = classes[by_hash[digest]]
        result_names = tuple(f"{label}/{n.meta['label']}" for n in cls.results)
        for node, name in zip(results, result_names, strict=True):
            names[node] = name
        blocks.append(
            Block(name=label,
                  block_class=cls.name,
                  operands=tuple(names[n] for n in operands),
                  results=result_names))
    return classes, tuple(blocks), names


def _labels(segments: Sequence[_Segment]) -> list[str]:
    """Unique block names: the module path, or ``glue.N`` between."""
    labels: list[str] = []
    for segment in segments:
        base = segment.key or f"glue.{len(labels)}"
        label, again = base, 1
        while label in labels:
            label, again = f"{base}+{again}", again + 1
        labels.append(label)
    return labels


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _operands(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What a run of nodes reads, in the order of its use."""
    inside = set(nodes)
    return list(
        dict.fromkeys(arg for node in nodes for arg in node.all_input_nodes
                      if arg not in inside))


def _extract(nodes: Sequence[fx.Node], operands: Sequence[fx.Node],
             results: Sequence[fx.Node], names: Mapping[fx.Node,
                                                        str]) -> fx.Graph:
    """Copy a run of nodes into a graph of its own."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for arg in operands:
        copies[arg] = graph.placeholder(arg.name)
        copies[arg].meta = {**arg.meta, "bound": names[arg]}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[n] for n in results))
    return graph


def _digest(nodes: Sequence[fx.Node], operands: Sequence[fx.Node],
            results: Sequence[fx.Node], names: Mapping[fx.Node, str]) -> str:
    """A hash of operators, arguments, wiring and shapes; not of names."""
    number = {n: i for i, n in enumerate((*operands, *nodes))}
    text = [
        f"{_operand_kind(names[arg])} {arg.meta.get('spec')}"
        for arg in operands
    ]
    for node in nodes:
        shown = fx.map_arg((node.args, node.kwargs), lambda n: f"%{number[n]}")
        text.append(f"{node.op} {node.target} {shown} {node.meta.get('spec')}")
    text.append(f"output {[number[n] for n in results]}")
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _operand_kind(bound: str) -> str:
    """What of an operand decides the class: constants by identity."""
    kind = value_kind(bound)
    return bound if kind == "const" else kind


def _label_nodes(graph: fx.Graph) -> None:
    """Label nodes by their place inside the block: ``mlp.up_proj.linear``."""
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        base = node.meta.get("label", node.name)
        if node.op == "placeholder" and value_kind(
                node.meta["bound"]) in ("input", "value"):
            base = "in"
        count = seen.get(base, 0)
        seen[base] = count + 1
        node.meta["label"] = base if count == 0 else f"{base}.{count}"
