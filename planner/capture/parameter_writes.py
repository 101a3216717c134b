"""What a forward pass writes to parameters, taken out of its graph.

What is made of parameters and buffers alone can be written before the call:
then the graph takes the parameters with their new values, to which gradients
go, as they do in eager training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from planner.capture.nodes import strip_entry
from planner.ir.errors import CaptureError
from planner.ir.rewrites import Rewrites

__all__ = ["taken_out"]


def taken_out(graph: fx.Graph, leaves: Mapping[fx.Node, str],
              written: Mapping[str, fx.Node]) -> Rewrites | None:
    """Take writes to parameters out of a functional graph.

    Parameters
    ----------
    graph : fx.Graph
        Changed in place.
    leaves : mapping of Node to str
        What each placeholder is; see `Traced`.
    written : mapping of str to Node
        The last value of each parameter that is written to.

    Returns
    -------
    Rewrites or None
        In terms of `leaves`; None where nothing is written.

    Raises
    ------
    CaptureError
        When a value depends on inputs or on chance, or when the old value of
        such a parameter is used for anything else.
    """
    if not written:
        return None
    nodes = {leaf: node for node, leaf in leaves.items()}
    making = _ancestors(written.values())
    ordered = [n for n in graph.nodes if n in making]
    given = [n for n in ordered if n.op == "placeholder"]
    changed = {nodes[f"param:{name}"]: name for name in written}
    for name, last in written.items():
        if any(leaves[n].startswith("input:") for n in _ancestors([last])
               if n.op == "placeholder"):
            raise _refused(name, "what follows from inputs")
    last_values = {n: nodes[f"param:{name}"] for name, n in written.items()}
    stale: set[fx.Node] = set()
    for node in ordered:
        if node in changed or stale & set(node.all_input_nodes):
            stale.add(node)
    for node in stale - set(last_values):
        if set(node.users) - making - {graph.output_node()}:
            name = next(changed[n] for n in _ancestors([node]) if n in changed)
            raise _refused(name, "a value after the old one was read")
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in ordered:
        copies[node] = made.node_copy(node, copies.__getitem__)
    made.output(tuple(copies[n] for n in last_values))
    for node, parameter in last_values.items():
        node.replace_all_uses_with(
            parameter, delete_user_cb=lambda user: user not in making)
    return Rewrites(reads=tuple(leaves[n] for n in given),
                    writes=tuple(f"param:{n}" for n in written),
                    graph=made)


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    waiting = list(nodes)
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _refused(name: str, what: str) -> CaptureError:
    return CaptureError(
        f"the forward pass writes to the parameter {strip_entry(name)} in "
        f"place ({what}); make it a buffer, or write to it outside of the "
        "model (after the optimizer's step)")
