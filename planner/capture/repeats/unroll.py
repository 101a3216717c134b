"""Copy what was traced of a layer to where it is used again."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from planner.capture.repeats.operator import AGAIN
from planner.capture.traced import Traced

__all__ = ["NotAlike", "unrolled"]

_Values = dict[fx.Node, fx.Node]


class NotAlike(Exception):
    """Why a graph with repeats can't stand for the whole model's."""


def unrolled(traced: Traced, withheld: Mapping[str, str]) -> Traced:
    """The graph with every repeat written out, in place.

    Parameters
    ----------
    traced : Traced
        Without unused calls.
    withheld : mapping of str to str
        Leaves that are missing, with leaves that look the same.

    Raises
    ------
    NotAlike
        When more leaves a layer than its results, or when it reads more
        than it was seen to take.
    """
    traced = _with_leaves(traced, withheld)
    named = {leaf: node for node, leaf in traced.leaves.items()}
    groups: dict[tuple[fx.Node, ...], list[fx.Node]] = {}
    for node in traced.graph.find_nodes(op="call_function", target=AGAIN):
        groups.setdefault(tuple(node.args[2]), []).append(node)
    # Of the numbers that a layer's Python had, which were compared.
    constants = {
        node
        for node, leaf in traced.leaves.items() if leaf.startswith("const:")
    }
    order = {n: i for i, n in enumerate(traced.graph.nodes)}
    replaced: _Values = {}
    kept = {*traced.outputs, *traced.mutations.values()}
    for like, (first, *others) in groups.items():
        takes = _takes(first, named)
        body = _body({*takes, *constants}, like, order)
        _check_exits(set(body) - set(like), {*body, first, *others}, kept)
        for node in others:
            operands = [
                *zip(takes, _takes(node, named), strict=True),
                *((c, c) for c in constants)
            ]
            copies = _copied(body, operands, first, node)
            replaced |= _replace(node, [copies[n] for n in like])
        replaced |= _replace(first, like)
    return dataclasses.replace(traced,
                               outputs=tuple(
                                   replaced.get(n, n) for n in traced.outputs),
                               mutations={
                                   name: replaced.get(n, n)
                                   for name, n in traced.mutations.items()
                               })


def _with_leaves(traced: Traced, missing: Mapping[str, str]) -> Traced:
    """Let the graph take more: each like a leaf that it takes."""
    graph = traced.graph
    nodes = {leaf: node for node, leaf in traced.leaves.items()}
    leaves = dict(traced.leaves)
    with graph.inserting_before(next(iter(graph.nodes))):
        for leaf, like in missing.items():
            node = graph.node_copy(nodes[like])
            leaves[node] = leaf
    return dataclasses.replace(traced, leaves=leaves)


def _body(ends: Collection[fx.Node], like: Sequence[fx.Node],
          order: Mapping[fx.Node, int]) -> list[fx.Node]:
    """The calls between what a layer reads and its results, in order."""
    found: set[fx.Node] = set()
    todo = [n for n in like if n not in ends]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        if node.op != "call_function" or node.target is AGAIN:
            raise NotAlike(f"a layer also reads {node}")
        found.add(node)
        todo += [n for n in node.all_input_nodes if n not in ends]
    return sorted(found, key=order.__getitem__)


def _takes(node: fx.Node, named: Mapping[str, fx.Node]) -> Sequence[fx.Node]:
    """Its operands, in the order of their use."""
    takes: Any = node.args[0]
    names: Any = node.args[1]
    shown = iter(takes)
    return [named[name] if name else next(shown) for name in names]


def _check_exits(inner: set[fx.Node], users: set[fx.Node],
                 kept: set[fx.Node]) -> None:
    """Nothing but a layer's outputs may be seen from outside of it."""
    for node in inner:
        if node in kept or not users.issuperset(node.users):
            raise NotAlike(f"a value inside of a layer is used: {node}")


def _copied(body: Sequence[fx.Node], operands: Iterable[tuple[fx.Node,
                                                              fx.Node]],
            first: fx.Node, node: fx.Node) -> _Values:
    """Every value of a layer as it is for another call's operands."""
    values: _Values = {}
    for old, new in operands:
        if values.setdefault(old, new) is not new:
            raise NotAlike(f"two operands of a layer are one value: {old}")
    old_path, new_path = _path(first), _path(node)
    with node.graph.inserting_before(node):
        for inner in body:
            copy = node.graph.node_copy(inner, values.__getitem__)
            stack = inner.meta.get("nn_module_stack") or {}
            copy.meta["nn_module_stack"] = {
                key: (_moved(path, old_path, new_path), kind)
                for key, (path, kind) in stack.items()
            }
            values[inner] = copy
    return values


def _path(node: fx.Node) -> str:
    """The path of the module whose call the node stands for."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        raise NotAlike("a layer has no path")
    return re.sub(r"@\d+$", "", list(stack.values())[-1][0])


def _moved(path: str, old: str, new: str) -> str:
    inside = path == old or path.startswith((f"{old}.", f"{old}@"))
    return new + path[len(old):] if inside else path


def _replace(node: fx.Node, results: Sequence[fx.Node]) -> _Values:
    """Let those that pick from the node have the results."""
    replaced: _Values = {}
    for pick in list(node.users):
        if pick.target is not operator.getitem:
            raise NotAlike(f"{pick} reads a layer's results as a whole")
        number: Any = pick.args[1]
        pick.replace_all_uses_with(results[number])
        replaced[pick] = results[number]
        node.graph.erase_node(pick)
    node.graph.erase_node(node)
    return replaced
