"""Make an exported graph functional: no writes, and no maybe-copies.

``ExportedProgram.run_decompositions`` does so by running the whole graph
twice. But most of a graph stays as it is. Only operators that may return an
operand itself (``reshape``, ``to``, ``contiguous``) become what they do here,
and writes what is computed by them; so these alone are traced again.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from planner.capture.composite import is_kept, is_whole

__all__ = ["make_functional"]

_aten = torch.ops.aten
_ORIGIN = "traced again for"


class _Unknown(Exception):
    """Why all of a graph is to be traced again."""


def make_functional(graph: fx.Graph) -> dict[str, fx.Node] | None:
    """Replace calls that are not functional, in place.

    Parameters
    ----------
    graph : Graph
        Of an exported program.

    Returns
    -------
    dict of str to Node, or None
        What stands for nodes that are gone, by their names. None where
        something else is needed: then the graph is left as it is.
    """
    try:
        calls = _calls(graph)
        rewritten = _writing(graph, calls)
        again = [
            _Again.of(nodes, writes=writes)
            for nodes, writes in ((rewritten, True),
                                  (_made_of_others(calls, rewritten), False))
            if nodes
        ]
    except _Unknown:
        return None
    instead = _replaced(calls, again)
    for node in list(graph.nodes):
        if node.target is _aten.lift_fresh_copy.default:
            node.target = _aten.clone.default
        elif _is_no_write(node):
            instead[node.name] = node.args[0]
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return instead


def _calls(graph: fx.Graph) -> list[fx.Node]:
    """All calls, if they are of operators and all shapes are known."""
    for node in graph.nodes:
        if node.op == "get_attr" or not all(map(_is_known, _values(node))):
            raise _Unknown(f"{node} is no tensor of known shape")
        if node.op == "call_function" and not _is_operator(node):
            raise _Unknown(f"{node} is no call of an operator")
    calls = [n for n in graph.nodes if n.op == "call_function"]
    _check_strides(calls)
    return calls


def _check_strides(calls: Sequence[fx.Node]) -> None:
    """Kernels are not the same where gradients are asked for, nor strides.

    A functional graph is traced without.

    Raises
    ------
    _Unknown
    """
    for node in calls:
        if _is_pick(node) or not is_whole(node.target):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs),
                                       lambda n: n.meta["val"])
        with _fake_mode(node), torch.no_grad():
            found = node.target(*args, **kwargs)
        if _strides(found) != _strides(node.meta.get("val")):
            raise _Unknown(f"{node} has other strides without gradients")


def _fake_mode(node: fx.Node) -> contextlib.AbstractContextManager[Any]:
    modes = (v.fake_mode for v in _values(node) if isinstance(v, FakeTensor))
    return next(modes, contextlib.nullcontext())


def _strides(value: Any) -> list[tuple[int, ...]]:
    return [
        v.stride() for v in pytree.tree_leaves(value)
        if isinstance(v, torch.Tensor)
    ]


def _is_operator(node: fx.Node) -> bool:
    return _is_pick(node) or isinstance(node.target, torch._ops.OpOverload)


def _is_no_write(node: fx.Node) -> bool:
    """Whether it says that it writes, but to no memory."""
    return node.target is _aten.detach_.default


def _is_pick(node: fx.Node) -> bool:
    return node.target is operator.getitem


def _values(node: fx.Node) -> list[Any]:
    return pytree.tree_leaves(node.meta.get("val"))


def _is_known(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return all(type(size) is int for size in value.shape)
    return value is None


def _memory(node: fx.Node) -> set[int]:
    return {
        v.untyped_storage()._cdata
        for v in _values(node) if isinstance(v, torch.Tensor)
    }


def _writing(graph: fx.Graph, calls: Sequence[fx.Node]) -> list[fx.Node]:
    """Calls that touch memory before it is written to for the last time."""
    memory = {n: _memory(n) for n in graph.nodes}
    last = {
        m: number
        for number, node in enumerate(calls)
        for operand in _written(node)
        for m in memory[operand]
    }
    if any(not memory[n].isdisjoint(last)
           for n in graph.find_nodes(op="placeholder")):
        raise _Unknown("what the graph is given is written to")
    found = [
        node for number, node in enumerate(calls) if any(
            last.get(m, -1) >= number for n in (node, *node.all_input_nodes)
            for m in memory[n])
    ]
    if any(not _is_pick(n) and is_whole(n.target) for n in found):
        raise _Unknown("what reads it then would not stay whole")
    return found


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """The operands that a call writes to."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or _is_no_write(node):
        return
    for number, argument in enumerate(schema.arguments):
        if argument.is_write:
            value = (node.args[number] if number < len(node.args) else
                     node.kwargs.get(argument.name))
            yield from (x for x in pytree.tree_leaves(value)
                        if isinstance(x, fx.Node))


def _made_of_others(calls: Iterable[fx.Node],
                    but: Collection[fx.Node]) -> list[fx.Node]:
    """Calls that are not kept, with what picks of their results."""
    found: dict[fx.Node, None] = {}
    for node in calls:
        if node in but or not node.users:
            continue
        if node.args[0] in found if _is_pick(node) else not is_kept(
                node.target):
            found[node] = None
    return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """Some calls of a graph, traced again.

    Parameters
    ----------
    reads : dict of Node to Node
        What each placeholder stands for.
    made : dict of Node to list of Node
        What is done in the place of each call.
    results : dict of Node to Node
        What stands for the calls whose results others read.
    """

    reads: dict[fx.Node, fx.Node]
    made: dict[fx.Node, list[fx.Node]]
    results: dict[fx.Node, fx.Node]

    @staticmethod
    def of(nodes: Sequence[fx.Node], *, writes: bool) -> _Again:
        """Trace calls, among which there are those that write, or not.

        Raises
        ------
        _Unknown
            When more is done than what stands for one of the calls.
        """
        inside = dict.fromkeys(nodes)
        reads = list(
            dict.fromkeys(a for n in nodes for a in n.all_input_nodes
                          if a not in inside))
        read = [n for n in nodes if not inside.keys() >= n.users.keys()]
        if any(not isinstance(n.meta["val"], torch.Tensor)
               for n in (*reads, *read)):
            raise _Unknown("several values are read as one")
        run: Any = fx.Interpreter(_module(nodes, reads, read)).run
        graph = _trace(
            torch.func.functionalize(run) if writes else run,
            [n.meta["val"] for n in reads])
        named = {n.name: n for n in nodes}
        made: dict[fx.Node, list[fx.Node]] = {n: [] for n in nodes}
        for node in graph.nodes:
            if node.op not in ("placeholder", "output"):
                made[_origin(node, named)].append(node)
        results: Any = graph.output_node().args[0]
        return _Again(reads=dict(
            zip(graph.find_nodes(op="placeholder"), reads, strict=True)),
                      made=made,
                      results=dict(zip(read, results, strict=True)))


def _module(nodes: Iterable[fx.Node], reads: Iterable[fx.Node],
            read: Iterable[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    values = {n: graph.placeholder(n.name) for n in reads}
    for node in nodes:
        if _is_no_write(node):
            values[node] = values[node.args[0]]
            continue
        copy = graph.node_copy(node, values.__getitem__)
        copy.meta["custom"] = {_ORIGIN: node.name}
        values[node] = copy
    graph.output([values[n] for n in read])
    return fx.GraphModule(torch.nn.Module(), graph)


def _trace(run: Any, fakes: Sequence[FakeTensor]) -> fx.Graph:
    try:
        with torch.no_grad(), fx_traceback.preserve_node_meta():
            return make_fx(run, tracing_mode="symbolic")(*fakes).graph
    except Exception as error:
        raise _Unknown("a part can't be traced by itself") from error


def _origin(node: fx.Node, named: dict[str, fx.Node]) -> fx.Node:
    """The call in whose place it is.

    Raises
    ------
    _Unknown
        When there is none, or when it writes itself.
    """
    name = node.meta.get("custom", {}).get(_ORIGIN)
    if name not in named or not _is_operator(node) or any(_written(node)) \
            or not all(map(_is_known, _values(node))):
        raise _Unknown(f"{node} is not expected")
    return named[name]


def _replaced(calls: Sequence[fx.Node],
              again: Sequence[_Again]) -> dict[str, fx.Node]:
    """Put what was traced again in the place of what it was made of."""
    values: dict[fx.Node, fx.Node] = {}
    results = {n: r for a in again for n, r in a.results.items()}
    reads = {n: r for a in again for n, r in a.reads.items()}
    made = {n: m for a in again for n, m in a.made.items()}

    def value(node: fx.Node) -> fx.Node:
        while node not in values:
            if node in reads:
                node = reads[node]
            elif node in results:
                node = results[node]
            else:
                return node
        return values[node]

    for call in calls:
        with call.graph.inserting_before(call):
            for node in made.get(call, ()):
                values[node] = call.graph.node_copy(node, value)
                values[node].meta = {**call.meta, "val": node.meta["val"]}
    instead = {n.name: value(n) for n in results}
    for node in results:
        node.replace_all_uses_with(value(node))
    for node in reversed(calls):
        if node in made:
            node.graph.erase_node(node)
    return instead
