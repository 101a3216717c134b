"""Memory of a traced local graph, by liveness of its storages.

A storage lives from the node that allocates it to the last node that
reads it or a view of it. Temporary memory inside a kernel and the
allocator's rounding are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from planner.cost.storage import Storages

__all__ = [
    "Liveness", "SavedBytes", "liveness", "saved_across", "saved_by_forward"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """Live bytes over the run of a graph.

    Parameters
    ----------
    peak_bytes : int
        The most bytes alive at once, inputs among them.
    peak_node : str
        The first node while which that is so.
    input_bytes, output_bytes : int
        Of the graph's inputs, and of outputs that are not inputs.
    profile : tuple of (str, int)
        Live bytes while each node runs, in order.
    """

    peak_bytes: int
    peak_node: str
    input_bytes: int
    output_bytes: int
    profile: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedBytes:
    """What is kept for later, each storage once.

    Parameters
    ----------
    own_bytes : int
        Of storages that the graph itself allocates.
    input_bytes : int
        Of storages that come in from outside (parameters, and what
        earlier blocks computed), kept alive by whoever owns them.
    """

    own_bytes: int
    input_bytes: int


def _graph(graph: fx.GraphModule | fx.Graph) -> fx.Graph:
    return graph.graph if isinstance(graph, fx.GraphModule) else graph


def _input_keys(graph: fx.Graph, storages: Storages) -> set[int]:
    return {
        key
        for node in graph.nodes if node.op in ("placeholder", "get_attr")
        for key in storages.of(node)
    }


def _last_uses(graph: fx.Graph, storages: Storages) -> dict[int, fx.Node]:
    """The last node that allocates, views or reads each storage."""
    last: dict[int, fx.Node] = {}
    for node in graph.nodes:
        for touched in (node, *node.all_input_nodes):
            last.update(dict.fromkeys(storages.of(touched), node))
    return last


def liveness(graph: fx.GraphModule | fx.Graph,
             *,
             keep_inputs: bool = True) -> Liveness:
    """Live bytes while a graph runs in its order.

    Parameters
    ----------
    graph : fx.GraphModule or fx.Graph
        Tensor nodes have ``meta["val"]``, views sharing the storage of
        their base, as ``make_fx`` under fake tensors records them.
    keep_inputs : bool
        Whether the caller keeps all inputs alive; else an input is freed
        after its last use.
    """
    graph = _graph(graph)
    storages = Storages(graph)
    inputs = _input_keys(graph, storages)
    last = _last_uses(graph, storages)
    live, profile = set(inputs), []
    for node in graph.nodes:
        live.update(storages.of(node))
        if node.op == "call_function":
            profile.append((node.name, storages.total_bytes(live)))
        ended = {k for k in live if last[k] is node and node.op != "output"}
        live -= ended - inputs if keep_inputs else ended
    output = graph.output_node()
    outputs = {k for n in output.all_input_nodes for k in storages.of(n)}
    profile = profile or [(output.name, storages.total_bytes(inputs))]
    # max() keeps the first of equals.
    peak_node, peak_bytes = max(profile, key=lambda entry: entry[1])
    return Liveness(peak_bytes=peak_bytes,
                    peak_node=peak_node,
                    input_bytes=storages.total_bytes(inputs),
                    output_bytes=storages.total_bytes(outputs - inputs),
                    profile=tuple(profile))


def _split(keys: set[int], inputs: set[int], storages: Storages) -> SavedBytes:
    return SavedBytes(own_bytes=storages.total_bytes(keys - inputs),
                      input_bytes=storages.total_bytes(keys & inputs))


def saved_by_forward(graph: fx.GraphModule | fx.Graph,
                     num_outputs: int) -> SavedBytes:
    """What a forward graph hands to its backward graph.

    Parameters
    ----------
    graph : fx.GraphModule or fx.Graph
        Its first `num_outputs` outputs are the caller's, the others are
        saved for the backward.
    num_outputs : int
    """
    graph = _graph(graph)
    storages = Storages(graph)
    values = graph.output_node().args[0][num_outputs:]
    keys = {
        k
        for n in values if isinstance(n, fx.Node) for k in storages.of(n)
    }
    return _split(keys, _input_keys(graph, storages), storages)


def saved_across(graph: fx.GraphModule | fx.Graph,
                 last_forward: str) -> SavedBytes:
    """What is alive between the two halves of a joint graph.

    Parameters
    ----------
    graph : fx.GraphModule or fx.Graph
        Forward and backward in one.
    last_forward : str
        Name of the last node of the forward. What is computed up to it
        and read after it, save by the output, is counted.

    Raises
    ------
    ValueError
        When no node has that name.
    """
    graph = _graph(graph)
    names = [node.name for node in graph.nodes]
    if last_forward not in names:
        raise ValueError(f"the graph has no node {last_forward!r}; its "
                         f"nodes are {', '.join(names[:8])}, ...")
    storages = Storages(graph)
    cut = names.index(last_forward) + 1
    nodes = list(graph.nodes)
    before = {k for node in nodes[:cut] for k in storages.of(node)}
    after = {
        k
        for node in nodes[cut:] if node.op != "output"
        for source in node.all_input_nodes for k in storages.of(source)
    }
    return _split(before & after, _input_keys(graph, storages), storages)
