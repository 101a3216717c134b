"""Pass: collectives start as early and are waited for as late as possible.

Needs a forward or backward graph. Leaves the same nodes in another order:
what no collective depends on (weight gradients, mostly) runs while one is
on its way, and a wait stands right before its first reader. Collectives
keep their order, which all ranks share.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import fx

from passes.split_backward import is_view

__all__ = ["overlap", "peak_bytes"]

_OPS = torch.ops._c10d_functional
_STARTS = (_OPS.all_reduce.default, _OPS.all_gather_into_tensor.default,
           _OPS.reduce_scatter_tensor.default, _OPS.all_to_all_single.default)


def overlap(graph: fx.Graph, *, allowance: float = 0.1) -> fx.Graph:
    """Reorder a graph; see the module's docstring.

    Parameters
    ----------
    graph : fx.Graph
        With fake values in ``meta["val"]``.
    allowance : float
        By how much of itself the peak of live intermediate values may
        grow; otherwise only waits move.
    """
    if not any(n.target in _STARTS for n in graph.nodes):
        return graph
    moved = _copied(graph, _with_late_waits(_filled(list(graph.nodes))))
    if peak_bytes(moved) <= peak_bytes(graph) * (1 + allowance):
        return moved
    return _copied(graph, _with_late_waits(list(graph.nodes)))


def _filled(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What leads to collectives first, the rest when one is waited for."""
    leading: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.target in _STARTS or any(u in leading for u in node.users):
            leading.add(node)
    order: list[fx.Node] = []
    done: set[fx.Node] = set()
    put_off: list[fx.Node] = []

    def emit(node: fx.Node) -> None:
        order.append(node)
        done.add(node)

    for node in nodes:
        if node.op in ("placeholder", "output"):
            for other in put_off if node.op == "output" else ():
                emit(other)
            emit(node)
        elif _is_taken(node, done):
            emit(node)
        elif node not in leading:
            put_off.append(node)
        else:
            if node.target is _OPS.wait_tensor.default:
                put_off = _emit_ready(put_off, done, emit)
            emit(node)
    return order


def _is_taken(node: fx.Node, done: set[fx.Node]) -> bool:
    """Whether a node is one result of a call that was made: as long as one
    is not taken out, all of them are held."""
    return node.target is operator.getitem and node.args[0] in done


def _emit_ready(nodes: Sequence[fx.Node], done: set[fx.Node],
                emit: Callable[[fx.Node], None]) -> list[fx.Node]:
    """Emit what has its operands; waits stay back, with what reads them."""
    rest = []
    for node in nodes:
        waits = node.target is _OPS.wait_tensor.default
        if waits or any(a not in done for a in node.all_input_nodes):
            rest.append(node)
        else:
            emit(node)
    return rest


def _with_late_waits(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Every wait right before its first reader."""
    order: list[fx.Node] = []
    held: set[fx.Node] = set()
    for node in nodes:
        if node.target is _OPS.wait_tensor.default:
            held.add(node)
            continue
        for source in node.all_input_nodes:
            if source in held:
                held.remove(source)
                order.append(source)
        order.append(node)
    return order


def _copied(graph: fx.Graph, order: Sequence[fx.Node]) -> fx.Graph:
    copy = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in order:
        made[node] = copy.node_copy(node, lambda n: made[n])
    return copy


def peak_bytes(graph: fx.Graph) -> int:
    """The most that is alive at once, beside the graph's operands."""
    last: dict[fx.Node, int] = {}
    nodes = list(graph.nodes)
    for number, node in enumerate(nodes):
        for source in node.all_input_nodes:
            while True:
                last[source] = number
                if not (source.op == "call_function" and is_view(source)):
                    break
                source = source.all_input_nodes[0]
    alive = peak = 0
    dies: dict[int, int] = {}
    for number, node in enumerate(nodes):
        alive += _size_bytes(node)
        peak = max(peak, alive)
        end = last.get(node, number)
        dies[end] = dies.get(end, 0) + _size_bytes(node)
        alive -= dies.pop(number, 0)
    return peak


def _size_bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    waits = node.target is _OPS.wait_tensor.default
    if node.op != "call_function" or waits or is_view(node) or not isinstance(
            value, torch.Tensor):
        return 0
    return value.numel() * value.element_size()
