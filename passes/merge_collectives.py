"""Pass: the same is computed once, and small collectives go together.

Needs a functional joint graph. Leaves one that gives the same numbers with
fewer nodes: what is computed twice within the forward, or within the
backward, is computed once, and small all-reduces of one axis that do not
wait for each other become one. Equal collectives stay: what is equal on
one rank (a value and the value masked to the first rank) need not be on
another, and all ranks must meet in the same ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from passes.differentiate import Joint

__all__ = ["SMALL_BYTES", "merge_collectives"]

SMALL_BYTES = 64 << 10
"""Below this an all-reduce is a matter of latency."""

_OPS = torch.ops._c10d_functional
_ATEN = torch.ops.aten


def merge_collectives(joint: Joint,
                      *,
                      small_bytes: int = SMALL_BYTES) -> Joint:
    """Merge equal nodes and small collectives of a joint graph.

    Parameters
    ----------
    joint : Joint
    small_bytes : int
        Size up to which an all-reduce is joined with others.
    """
    graph = _shared(joint.graph)
    group = _next_group(graph, small_bytes)
    while group:
        graph = _fused(graph, group)
        group = _next_group(graph, small_bytes)
    return dataclasses.replace(joint, graph=graph)


def _shared(graph: fx.Graph) -> fx.Graph:
    """Compute once what is computed twice.

    Not across forward and backward: that would save a value that is
    cheaper to compute again.
    """
    backward = set(_backward_nodes(graph))
    seen: dict[Hashable, fx.Node] = {}
    copy = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        key = _key(node, made, node in backward)
        if key is not None and key in seen:
            made[node] = seen[key]
            continue
        made[node] = copy.node_copy(node, lambda n: made[n])
        if key is not None:
            seen[key] = made[node]
    return copy


def _backward_nodes(graph: fx.Graph) -> Iterator[fx.Node]:
    """All from the first node that a tangent reaches."""
    tainted = {n for n in graph.nodes if "tangent" in n.meta}
    begun = False
    for node in graph.nodes:
        begun = begun or any(a in tainted for a in node.all_input_nodes)
        if begun:
            yield node


def _key(node: fx.Node, made: dict[fx.Node, fx.Node],
         backward: bool) -> Hashable | None:
    """What two nodes with the same value have in common."""
    tags = getattr(node.target, "tags", ())
    if (node.op != "call_function" or "_c10d_functional" in str(node.target)
            or torch.Tag.nondeterministic_seeded in tags):
        return None
    arguments = fx.map_arg((node.args, node.kwargs), lambda n: made[n])
    return (node.target, backward, _frozen(arguments))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    # 1, 1.0 and True are equal, but make tensors of different dtypes.
    return (type(value).__name__, value)


def _next_group(graph: fx.Graph, small_bytes: int) -> list[fx.Node]:
    """The first all-reduces that can be joined; empty when there are none.
    """
    backward = set(_backward_nodes(graph))
    groups: dict[Hashable, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.target in (_OPS.all_gather_into_tensor.default,
                           _OPS.reduce_scatter_tensor.default,
                           _OPS.all_to_all_single.default):
            # The order of collectives on a group must not change.
            groups.clear()
        if node.target is not _OPS.all_reduce.default:
            continue
        operand = node.args[0].meta["val"]
        key = (node.args[1:], operand.dtype, node in backward)
        group = groups.get(key, [])
        groups = {key: group} if group else {}
        small = operand.numel() * operand.element_size() <= small_bytes
        if small and not (_ancestors(node) & set(group)):
            groups[key] = [*group, node]
            continue
        if len(group) > 1:
            return group
        groups = {key: [node]} if small else {}
    return next((g for g in groups.values() if len(g) > 1), [])


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        for source in todo.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                todo.append(source)
    return found


def _fused(graph: fx.Graph, group: Sequence[fx.Node]) -> fx.Graph:
    """Join all-reduces where the last of them stands; what reads the
    earlier ones is put off until then."""
    copy = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    late: set[fx.Node] = set()
    waiting: list[fx.Node] = []
    for node in graph.nodes:
        if node in group and node is not group[-1]:
            late.add(node)
        elif node is group[-1]:
            _join(copy, group, made)
            for other in waiting:
                made[other] = _copied(copy, other, made)
            late.clear()
        elif any(a in late for a in node.all_input_nodes):
            late.add(node)
            waiting.append(node)
        else:
            made[node] = _copied(copy, node, made)
    return copy


def _copied(copy: fx.Graph, node: fx.Node, made: dict[fx.Node,
                                                      fx.Node]) -> fx.Node:
    """Copy a node; a wait for what was joined is over already."""
    if node.target is _OPS.wait_tensor.default:
        source = made[node.args[0]]
        if source.target is _ATEN.reshape.default:
            return source
    return copy.node_copy(node, lambda n: made[n])


def _join(copy: fx.Graph, group: Sequence[fx.Node],
          made: dict[fx.Node, fx.Node]) -> None:
    values = [made[n.args[0]] for n in group]
    flat = [_call(copy, _ATEN.reshape.default, v, [-1]) for v in values]
    packed = _call(copy, _ATEN.cat.default, flat)
    started = _call(copy, _OPS.all_reduce.default, packed, *group[0].args[1:])
    whole = _call(copy, _OPS.wait_tensor.default, started)
    start = 0
    for node, value in zip(group, values, strict=True):
        shape = list(value.meta["val"].shape)
        end = start + math.prod(shape)
        part = _call(copy, _ATEN.slice.Tensor, whole, 0, start, end)
        made[node] = _call(copy, _ATEN.reshape.default, part, shape)
        start = end


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
    return node
