"""Products of joined rows become products of the value that has them apart.

``nn.MultiheadAttention`` and others view (sequence, batch, features) as
(rows, features), multiply the rows with a weight, and view the product as
(sequence, batch, features) again. Of joined dims only the first can be
sharded. A product takes any number of leading dims, and so do the
operators that compute each element or row by itself. Mixtures that compute
every expert for all rows repeat these, and view the copies as a dim again.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx

from planner.capture.calls import CallsBefore, add_call, become
from planner.capture.nodes import op_label

__all__ = ["part_joined_rows"]

_aten = torch.ops.aten
_VIEWS = ("view", "_unsafe_view", "reshape", "flatten", "unflatten")
_SPLITS = ("split", "split_with_sizes", "chunk", "unsafe_split",
           "unsafe_split_with_sizes", "unsafe_chunk")
_SEVERAL = ("native_dropout", *_SPLITS)
_DIMS = {
    **dict.fromkeys(_SPLITS, (2, 0)),
    **dict.fromkeys(("softmax", "log_softmax"), (1, None)), "slice": (1, 0),
    "glu": (1, -1)
}
"""Where the arguments name the one dim that is not computed by itself."""

_PRODUCTS = ("linear", "mm", "matmul", "addmm")
_Lead = tuple[int, ...]


def part_joined_rows(graph: fx.Graph, kept: Collection[fx.Node]) -> None:
    """Rewrite what is computed of joined rows and then cut, in place.

    Parameters
    ----------
    graph : fx.Graph
    kept : collection of Node
        Nodes that must stay, as the graph returns their values.
    """
    leads = _leads(graph)
    lifted: set[fx.Node] = set()
    exits = []
    for node in graph.nodes:
        source = node.args[0] if op_label(node) in _VIEWS else None
        if source in leads and _parts(node, leads[source]):
            above = _above(source, leads)
            if above == {source} or any(
                    op_label(n) in (*_PRODUCTS, "repeat") for n in above):
                lifted |= above
                exits.append(node)
    apart: dict[fx.Node, fx.Node] = {}
    for node in [n for n in graph.nodes if n in lifted]:
        _lift(node, leads, apart)
    for node in exits:
        _take(node, apart[node.args[0]], kept)


def _leads(graph: fx.Graph) -> dict[fx.Node, _Lead]:
    """The dims that the first dim of a value joins, where that is all that
    is done to them."""
    leads: dict[fx.Node, _Lead] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        joined = [n for n in node.all_input_nodes if n in leads]
        if not joined:
            lead = _joined(node)
        else:
            lead = leads[joined[0]]
            alike = all(leads[n] == lead for n in joined)
            if not alike or not _by_rows(node, joined):
                lead = _joined(node)
        if lead:
            leads[node] = lead
    return leads


def _joined(node: fx.Node) -> _Lead:
    """The dims that a view, or a repetition of all rows, joins to its first;
    () if it joins none."""
    if op_label(node) == "repeat":
        return _repeated(node)
    if op_label(node) not in _VIEWS:
        return ()
    source = node.args[0].meta["val"]
    rows = node.meta["val"].shape[0] if node.meta["val"].ndim else 0
    # A dense value's product is the same kernel whatever its dims.
    if rows < 2 or not source.is_contiguous():
        return ()
    lead: list[int] = []
    for size in source.shape:
        if rows % size or rows == 1:
            break
        lead.append(size)
        rows //= size
    lead += [rows] if rows > 1 else []
    return tuple(lead) if sum(n > 1 for n in lead) > 1 else ()


def _repeated(node: fx.Node) -> _Lead:
    """Times and rows, where nothing but rows is repeated."""
    source: Any = node.args[0]
    times, *others = node.args[1]
    shape = source.meta["val"].shape
    if len(others) != len(shape) - 1 or set(others) - {1}:
        return ()
    return (times, shape[0]) if times > 1 and shape[0] > 1 else ()


def _by_rows(node: fx.Node, joined: list[fx.Node]) -> bool:
    """Whether a call computes each of the joined rows by itself."""
    if (node.target is operator.getitem) != (op_label(joined[0]) in _SEVERAL):
        return False
    if node.target is operator.getitem:
        return True
    value = joined[0].meta["val"]
    name = op_label(node)
    if name in _BY_ROWS:
        return _BY_ROWS[name](node, value)
    return (torch.Tag.pointwise in getattr(node.target, "tags", ())
            and _is_aligned(node, joined, value))


def _is_aligned(node: fx.Node, joined: list[fx.Node],
                value: torch.Tensor) -> bool:
    """Whether no operand is broadcast along, or has rows of its own."""
    first = node.args[0] if node.args else None
    values = [n.meta["val"] for n in (node, *node.all_input_nodes)]
    others = [n.meta["val"] for n in node.all_input_nodes if n not in joined]
    return (isinstance(first, fx.Node) and all(
        isinstance(v, torch.Tensor) and v.ndim <= value.ndim
        for v in values) and node.meta["val"].ndim == value.ndim
            and all(n.meta["val"].ndim == value.ndim for n in joined)
            and all(v.ndim < value.ndim or v.shape[0] == 1 for v in others))


def _keeps_rows(node: fx.Node, value: torch.Tensor) -> bool:
    shape = node.meta["val"].shape
    return len(shape) > 0 and shape[0] == value.shape[0]


def _is_product(node: fx.Node, value: torch.Tensor) -> bool:
    """With a matrix that is not of the rows itself."""
    x, weight = node.args[:2]
    return (value.ndim == 2 and x.meta["val"] is value
            and weight.meta["val"].ndim == 2
            and node.all_input_nodes.count(x) == 1 and weight is not x
            and not node.kwargs)


def _is_sum_product(node: fx.Node, value: torch.Tensor) -> bool:
    bias, x, weight = node.args[:3]
    return (x.meta["val"] is value and weight is not x
            and bias.meta["val"].ndim == 1 and len(node.args) == 3
            and not node.kwargs)


def _norms_features(node: fx.Node, value: torch.Tensor) -> bool:
    return len(node.args[1]) < value.ndim


def _of_last_dim(node: fx.Node, value: torch.Tensor) -> bool:
    position, default = _DIMS[op_label(node)]
    dim = node.args[position] if len(node.args) > position else default
    return (value.ndim > 1 and not node.kwargs.keys() & {"dim"}
            and dim in (-1, value.ndim - 1))


def _always(node: fx.Node, value: torch.Tensor) -> bool:
    del node, value
    return True


_BY_ROWS: dict[str, Callable[[fx.Node, torch.Tensor], bool]] = {
    **dict.fromkeys(_VIEWS, _keeps_rows),
    **dict.fromkeys(("linear", "mm", "matmul"), _is_product),
    "addmm":
    _is_sum_product,
    **dict.fromkeys(("layer_norm", "rms_norm"), _norms_features),
    **dict.fromkeys(_DIMS, _of_last_dim),
    **dict.fromkeys(("native_dropout", "dropout", "clone", "_to_copy", "detach"), _always),
}


def _parts(node: fx.Node, lead: _Lead) -> bool:
    """Whether a view cuts the joined rows where they were joined."""
    inner = {n for n in itertools.accumulate(lead, operator.mul)}
    inner -= {1, math.prod(lead)}
    shape = node.meta["val"].shape
    return not inner.isdisjoint(itertools.accumulate(shape, operator.mul))


def _above(node: Any, leads: dict[fx.Node, _Lead]) -> set[fx.Node]:
    """A node and what joined rows it is computed from."""
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        last = todo.pop()
        if last in leads and last not in found:
            found.add(last)
            todo += last.all_input_nodes
    return found


def _lift(node: fx.Node, leads: dict[fx.Node, _Lead],
          apart: dict[fx.Node, fx.Node]) -> None:
    """Compute a value with its rows apart; the node joins them again, for
    whoever else reads it."""
    name, add = op_label(node), CallsBefore(node).add
    if name in _VIEWS:
        source: Any = node.args[0]
        shape = [*leads[node], *node.meta["val"].shape[1:]]
        source = apart.get(source, source)
        apart[node] = (source if list(source.meta["val"].shape) == shape else
                       add(_aten.view.default, source, shape))
        return
    args: Any = fx.node.map_arg(node.args, lambda n: apart.get(n, n))
    if name == "repeat":
        source = node.args[0]
        apart[node] = add(_aten.expand.default,
                          add(_aten.unsqueeze.default, source, 0),
                          [*leads[node], *source.meta["val"].shape[1:]])
    elif name == "addmm":
        bias, x, weight = args
        apart[node] = add(_aten.linear.default, x, add(_aten.t.default,
                                                       weight), bias)
    elif name == "mm":
        apart[node] = add(_aten.matmul.default, *args)
    elif name in _DIMS:
        place, _ = _DIMS[name]
        apart[node] = _again(node, (*args[:place], -1, *args[place + 1:]))
    else:
        apart[node] = _again(node, args)
    if isinstance(node.meta["val"], torch.Tensor):
        become(node, _aten.view.default,
               (apart[node], list(node.meta["val"].shape)))


def _again(node: fx.Node, args: tuple[Any, ...]) -> fx.Node:
    """The node's call of other operands."""
    if node.target is not operator.getitem:
        with node.graph.inserting_before(node):
            return add_call(node.graph,
                            node.target,
                            args,
                            node.kwargs,
                            like=node)
    values, number = args
    with node.graph.inserting_before(node):
        picked = node.graph.call_function(operator.getitem, args)
    picked.meta = {**node.meta, "val": values.meta["val"][number]}
    return picked


def _take(node: fx.Node, source: fx.Node, kept: Collection[fx.Node]) -> None:
    """A view of the rows apart instead of the joined ones."""
    shape = list(node.meta["val"].shape)
    if shape == list(source.meta["val"].shape) and node not in kept:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
        return
    become(node, _aten.view.default, (source, shape))
