"""Parts of a traced graph whose shapes depend on values: run as they are.

``loss = (x[mask] / y[mask]).mean()`` is traced, but how many rows there are
is not known. What such rows lead to, up to where shapes are known again, is
a graph of its own; it becomes one operator, as a module does that no trace
can hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from planner.capture.calls import become
from planner.capture.nodes import source_in_model
from planner.capture.opaque.examples import examples
from planner.capture.opaque.operator import OPAQUE
from planner.capture.opaque.replace import Opaque
from planner.steady import STEADY

__all__ = ["has_unknown_shape", "isolate_unknown_shapes"]

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_Region = frozenset[fx.Node]


def has_unknown_shape(node: fx.Node) -> bool:
    """Whether a size of what a call gives comes out of a tensor."""
    if not _is_call(node):
        return False
    value = node.meta["val"]
    several = value if isinstance(value, (tuple, list)) else (value, )
    return any(
        isinstance(size, _SYMBOLS) for x in several
        for size in (x.shape if isinstance(x, torch.Tensor) else (x, )))


def isolate_unknown_shapes(
        graph: fx.Graph, values: Mapping[fx.Node, torch.Tensor]) -> list[str]:
    """Replace every part of unknown shapes by a call of an operator.

    Parts whose results have unknown shapes too stay as they are, unless
    they are by-products: the model returns them, and goes on with others.
    If values are known, they have the shapes that follow from these, and
    other ones later are an error.

    Parameters
    ----------
    graph : fx.Graph
    values : mapping of Node to Tensor
        Of the placeholders whose values are known.

    Returns
    -------
    list of str
        A note on each.

    Raises
    ------
    NotIsolated
        When such a part can't be run on its own.
    """
    unknown = [n for n in graph.nodes if has_unknown_shape(n)]
    notes: dict[str, None] = {}
    for region in _apart(graph, unknown):
        nodes = [n for n in graph.nodes if n in region]
        results = [n for n in nodes if not region.issuperset(n.users)]
        unknown = [n for n in results if has_unknown_shape(n)]
        if results and not unknown:
            notes[_replaced(graph, nodes, results)] = None
        elif values and len(unknown) < len(results) and all(
                _is_only_returned(n, region) for n in unknown):
            notes[_replaced(graph, nodes, results, values)] = None
    return list(notes)


def _is_only_returned(node: fx.Node, region: _Region) -> bool:
    """Whether nothing of the program but its user reads a value."""
    return all(u.op == "output" for u in node.users if u not in region)


def _apart(graph: fx.Graph, unknown: Sequence[fx.Node]) -> list[_Region]:
    """Connected parts, each with what reads it and lies between."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    regions: list[_Region] = []
    for node in unknown:
        new = _Region((node, *filter(_is_call, node.users)))
        regions = _joined(regions, new, new.intersection)
    while True:
        closed: list[_Region] = []
        for region in regions:
            new = _closed(region, order)
            closed = _joined(closed, new, lambda r: _entangled(r, new))
        if closed == regions:
            return regions
        regions = closed


def _is_call(node: fx.Node) -> bool:
    return node.op == "call_function"


def _joined(regions: Sequence[_Region], new: _Region,
            touches: Callable[[_Region], Any]) -> list[_Region]:
    """With one more, which takes in those that it touches."""
    near = [r for r in regions if touches(r)]
    return [*(r for r in regions if r not in near), new.union(*near)]


def _closed(region: _Region, order: dict[fx.Node, int]) -> _Region:
    """With what is computed from it and read by it, and picks of results."""
    places = [order[n] for n in region]
    first, last = min(places), max(places)
    below = _walk(region, lambda n: n.users, lambda n: order[n] < last)
    above = _walk(region, lambda n: n.all_input_nodes,
                  lambda n: order[n] > first)
    whole = region | (below & above)
    return whole | {
        u
        for n in whole
        for u in n.users if u.target is operator.getitem
    }


def _entangled(one: _Region, other: _Region) -> bool:
    """Whether neither can be run before the other."""
    if one & other:
        return True
    below, beside = (_walk(r, lambda n: n.users, _is_call)
                     for r in (one, other))
    return bool(below & other) and bool(beside & one)


def _walk(region: Iterable[fx.Node], step: Callable[[fx.Node],
                                                    Iterable[fx.Node]],
          within: Callable[[fx.Node], bool]) -> _Region:
    found: set[fx.Node] = set()
    waiting = list(region)
    while waiting:
        for node in step(waiting.pop()):
            if node not in found and _is_call(node) and within(node):
                found.add(node)
                waiting.append(node)
    return _Region(found)


def _replaced(graph: fx.Graph,
              nodes: Sequence[fx.Node],
              results: Sequence[fx.Node],
              values: Mapping[fx.Node, torch.Tensor] | None = None) -> str:
    """Put an operator in the place of a part; gives a note on it."""
    inside = set(nodes)
    # Constants among what it is given may be masks of known count.
    part = [*_constants(graph, nodes), *nodes]
    given = list(
        dict.fromkeys(source for n in part for source in n.all_input_nodes
                      if source not in part))
    source = next(source_in_model(n) for n in nodes if has_unknown_shape(n))
    known = examples(graph, given, values) if values else []
    item = Opaque(_module(part, given, results),
                  str(source),
                  whole=False,
                  examples_of=lambda _: known)
    tensors = tuple(_like(n.meta["val"]) for n in given)
    _, key = item.described(tensors, tensors, {})
    below = _walk(results, lambda n: n.users, lambda n: n not in inside)
    call = _called(graph, nodes, given, key, item)
    for number, result in reversed(list(enumerate(results))):
        become(result, operator.getitem, (call, number))
        result.meta["val"] = call.meta["val"][number]
        call.append(result)
    _move_behind(graph, results[-1], below)
    for node in reversed(nodes):
        if node not in results:
            graph.erase_node(node)
    returned = ("; what it returns has the shapes that follow from the "
                "example inputs, and batches that lead to others are an "
                "error" if values else "")
    return (f"a shape depends on values at {source}: what is computed from "
            f"there to where shapes are known ({len(nodes)} operators) runs "
            "whole, as it is written, on every rank of every axis, and once "
            f"more in the backward{returned}; forbid(\"opaque\") makes this "
            "an error, a mask of fixed shape or torch.where avoids it")


def _constants(graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What is computed from nothing, for what a part is given."""
    known: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if _is_call(node) and node not in nodes and all(
                n in known for n in node.all_input_nodes) \
                and torch.Tag.nondeterministic_seeded not in getattr(
                    node.target, "tags", ()):
            known[node] = None
    needed = _walk(nodes, lambda n: n.all_input_nodes, known.__contains__)
    return [n for n in known if n in needed]


def _like(value: torch.Tensor) -> torch.Tensor:
    """Without gradients: which of them a part gives is seen in the graph."""
    return torch.empty_strided(value.shape,
                               value.stride(),
                               dtype=value.dtype,
                               device="meta")


def _module(nodes: Sequence[fx.Node], given: Sequence[fx.Node],
            results: Sequence[fx.Node]) -> fx.GraphModule:
    """The part as a module; equal parts have equal code."""
    graph = fx.Graph()
    values = {n: graph.placeholder(f"x{i}") for i, n in enumerate(given)}
    for number, node in enumerate(nodes):
        args, kwargs = fx.node.map_arg((node.args, node.kwargs),
                                       values.__getitem__)
        values[node] = graph.create_node("call_function",
                                         node.target,
                                         args,
                                         kwargs,
                                         name=f"v{number}")
    graph.output(tuple(values[n] for n in results))
    return fx.GraphModule(nn.Module(), graph, "Part")


def _called(graph: fx.Graph, nodes: Sequence[fx.Node],
            given: Sequence[fx.Node], key: str, item: Opaque) -> fx.Node:
    """The operator, behind what it is given."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    place = max((*given, nodes[0]), key=order.__getitem__)
    mode = next(v.fake_mode for v in (n.meta["val"] for n in (*given, *nodes))
                if isinstance(v, FakeTensor))

    def add(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        nonlocal place
        with graph.inserting_after(place):
            node = graph.call_function(target, args, kwargs)
        node.meta = dict(nodes[0].meta)
        values, keywords = fx.node.map_arg((args, kwargs),
                                           lambda n: n.meta["val"])
        with mode:
            node.meta["val"] = target(*values, **keywords)
        place = node
        return node

    work = item.work
    seed = add(torch.ops.aten.randint.low,
               STEADY,
               2**62, [],
               device=torch.device("cpu"),
               pin_memory=False)
    return add(OPAQUE, list(given), seed, key, work.flops, work.size_bytes,
               work.kernels)


def _move_behind(graph: fx.Graph, anchor: fx.Node, below: _Region) -> None:
    """What reads the results, where it stood before they are made now."""
    waiting = []
    for node in graph.nodes:
        if node is anchor:
            break
        if node in below:
            waiting.append(node)
    for node in reversed(waiting):
        anchor.append(node)
