"""Copy what was traced of a layer to where it is used again."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from planner.capture.repeats.operator import AGAIN, VALUE_HERE
from planner.capture.traced import Traced

__all__ = ["NotAlike", "unrolled"]

_COPY = torch.ops.aten.copy.default
_Values = dict[fx.Node, fx.Node]


class NotAlike(Exception):
    """Why a graph with repeats can't stand for the whole model's."""


def unrolled(traced: Traced, withheld: Mapping[str, str], *,
             writing: Collection[int], buffers: Iterable[str]) -> Traced:
    """The graph with every repeat written out, in place.

    Parameters
    ----------
    traced : Traced
        Without unused calls.
    withheld : mapping of str to str
        Leaves that are missing, with leaves that look the same.
    writing : collection of int
        Calls by number that write to what they name.
    buffers : iterable of str
        In the order in which what is written to them is listed.

    Raises
    ------
    NotAlike
        When more leaves a layer than its results, or when it reads more
        than it was seen to take.
    """
    traced = _with_leaves(traced, withheld)
    replaced = _without_values(traced.graph)
    mutations = {**traced.mutations, **_show_operands(traced, writing)}
    place = {name: i for i, name in enumerate(buffers)}
    groups: dict[tuple[fx.Node, ...], list[fx.Node]] = {}
    for node in _calls(traced.graph):
        groups.setdefault(tuple(node.args[2]), []).append(node)
    # Of the numbers that a layer's Python had, which were compared.
    constants = {
        node
        for node, leaf in traced.leaves.items() if leaf.startswith("const:")
    }
    order = {n: i for i, n in enumerate(traced.graph.nodes)}
    kept = {*traced.outputs, *mutations.values()}
    for like, (first, *others) in groups.items():
        takes = _takes(first)
        body = _body({*takes, *constants}, like, order)
        _check_exits(set(body) - set(like), {*body, first, *others}, kept)
        for node in others:
            operands = [
                *zip(takes, _takes(node), strict=True),
                *((c, c) for c in constants)
            ]
            copies = _copied(body, operands, first, node)
            replaced |= _replace(node, [copies[n] for n in like])
        replaced |= _replace(first, like)
    return dataclasses.replace(
        traced,
        outputs=tuple(_last(n, replaced) for n in traced.outputs),
        mutations={
            name: _last(mutations[name], replaced)
            for name in sorted(mutations, key=place.__getitem__)
        })


def _last(node: fx.Node, replaced: _Values) -> fx.Node:
    while node in replaced:
        node = replaced[node]
    return node


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return list(graph.find_nodes(op="call_function", target=AGAIN))


def _without_values(graph: fx.Graph) -> _Values:
    """What a written tensor holds is a value like any other here."""
    replaced: _Values = {}
    for node in graph.find_nodes(op="call_function", target=VALUE_HERE):
        value: Any = node.args[0]
        put = len(node.args) > 1 and node.args[1]
        copies = [u for u in node.users if put and u.target is _COPY]
        for gone in (*copies, node):
            gone.replace_all_uses_with(value)
            replaced[gone] = value
            graph.erase_node(gone)
    return replaced


def _show_operands(traced: Traced,
                   writing: Collection[int]) -> dict[str, fx.Node]:
    """Give calls what they name, and return what they write by name.

    Raises
    ------
    NotAlike
        When a call that writes is gone, since nobody has read its results.
    """
    values = {leaf: node for node, leaf in traced.leaves.items()}
    written: dict[str, fx.Node] = {}
    left = set(writing)
    for node in _calls(traced.graph):
        takes: Any
        names: Any
        takes, names, like, writes, number = node.args
        shown = iter(takes)
        node.args = ([values[n] if n else next(shown)
                      for n in names], [], like, writes, number)
        if number not in writing:
            continue
        left.remove(number)
        with traced.graph.inserting_after(node):
            for place, result in zip(reversed(writes),
                                     reversed(range(len(like)))):
                if name := names[place]:
                    values[name] = traced.graph.call_function(
                        operator.getitem, (node, result))
                    written[name.removeprefix("buffer:")] = values[name]
    if left:
        raise NotAlike("a layer that writes to buffers is not in the graph")
    end = traced.graph.output_node()
    returned: Any = end.args[0]
    end.args = ((*written.values(), *returned), )
    return written


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


def _takes(node: fx.Node) -> Sequence[fx.Node]:
    """Its operands, in the order of their use."""
    takes: Any = node.args[0]
    return takes


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
