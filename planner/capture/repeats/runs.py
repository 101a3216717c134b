"""Layers that are mentioned one after the other, as one mention.

What is done to an exported graph takes as long as there are calls, and none
of it concerns those that are mentioned only.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from planner.capture.repeats.operator import AGAIN, VALUE_HERE

__all__ = ["fold_runs", "unfold_runs"]

_PICKS = (operator.getitem, VALUE_HERE)


def fold_runs(graph: fx.Graph) -> dict[str, fx.Graph]:
    """Put calls of ``scaletorch::again`` that follow each other into one.

    Parameters
    ----------
    graph : Graph
        Is changed in place.

    Returns
    -------
    dict of str to Graph
        What each such call stands for, by what it names as operand.
    """
    runs: dict[str, fx.Graph] = {}
    for nodes in list(_runs(graph)):
        results = [n for n in nodes if not nodes.keys() >= n.users.keys()]
        if all(r.target in _PICKS and all(u.op != "output" for u in r.users)
               for r in results):
            name = f"run {len(runs)}"
            runs[name] = _folded(graph, nodes, results, name)
    return runs


def _runs(graph: fx.Graph) -> Iterator[dict[fx.Node, None]]:
    """Several calls in a row, with what picks of their results."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.target is AGAIN or (node.target in _PICKS
                                    and node.args[0] in found):
            found[node] = None
        else:
            if sum(n.target is AGAIN for n in found) > 1:
                yield found
            found = {}


def _folded(graph: fx.Graph, nodes: Mapping[fx.Node, None],
            results: list[fx.Node], name: str) -> fx.Graph:
    """Replace calls by one, and return them as a graph of its operands."""
    inner = fx.Graph()
    takes = dict.fromkeys(a for n in nodes for a in n.all_input_nodes
                          if a not in nodes)
    values = {n: inner.placeholder(n.name) for n in takes}
    for node in nodes:
        values[node] = inner.node_copy(node, values.__getitem__)
    inner.output([values[n] for n in results])
    *_, last = nodes
    with graph.inserting_after(last):
        call = graph.call_function(
            AGAIN, ([*takes], [name], [_like(n) for n in results], [], -1))
    call.meta = dict(last.meta)
    for number, result in reversed(list(enumerate(results))):
        with graph.inserting_after(call):
            pick = graph.call_function(operator.getitem, (call, number))
        pick.meta = dict(result.meta)
        result.replace_all_uses_with(pick, lambda user: user not in nodes)
    for node in reversed(list(nodes)):
        graph.erase_node(node)
    return inner


def _like(pick: fx.Node) -> fx.Node:
    """What was traced, and looks the same."""
    while pick.target is VALUE_HERE:
        (pick, ) = pick.all_input_nodes
    call: Any
    number: Any
    call, number = pick.args
    found: fx.Node = call.args[2][number]
    return found


def unfold_runs(graph: fx.Graph,
                runs: Mapping[str, fx.Graph]) -> dict[str, fx.Node]:
    """Undo `fold_runs` in what was made of the graph.

    Returns
    -------
    dict of str to Node
        What stands for nodes that are gone, by their names.
    """
    instead: dict[str, fx.Node] = {}
    for call in graph.find_nodes(op="call_function", target=AGAIN):
        takes, names, *_ = call.args
        name = next(iter(names), "")
        if name not in runs:
            continue
        places = runs[name].find_nodes(op="placeholder")
        with graph.inserting_before(call):
            results: Any = graph.graph_copy(
                runs[name], dict(zip(places, takes, strict=True)))
        for pick in list(call.users):
            instead[pick.name] = results[pick.args[1]]
            pick.replace_all_uses_with(instead[pick.name])
            graph.erase_node(pick)
        graph.erase_node(call)
    return instead
