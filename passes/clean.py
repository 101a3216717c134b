"""Pass: a recorded joint graph is made functional, named and tidy.

Needs what ``make_fx`` recorded. Leaves a graph without operators that
change their operands, so that dropping, splitting and recomputing nodes
can't lose or double an effect; placeholders carry the names they had in
the block, and what only served the recording is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from planner.ir.errors import CaptureError

__all__ = ["clean", "changes_operands"]

aten = torch.ops.aten

_VIEWS = (aten.view.default, aten._unsafe_view.default)
_NOTHING = (aten.detach.default, aten.alias.default)


def clean(graph: fx.Graph, names: Sequence[str], tangents: int) -> fx.Graph:
    """Tidy a recorded graph; see the module's docstring.

    Parameters
    ----------
    graph : fx.Graph
    names : sequence of str
        Of the placeholders.
    tangents : int
        How many placeholders at the end are tangents; they are marked.
    """
    _spell_constants(graph)
    if any(map(changes_operands, graph.nodes)):
        graph = _functional(graph)
    named, made = fx.Graph(), {}
    fresh = iter(names)
    places = sum(node.op == "placeholder" for node in graph.nodes)
    for position, node in enumerate(graph.nodes):
        if node.op == "placeholder":
            made[node] = named.placeholder(next(fresh))
            made[node].meta = dict(node.meta)
            if position >= places - tangents:
                made[node].meta["tangent"] = True
        elif node.target in _NOTHING:
            made[node] = made[node.args[0]]
        else:
            made[node] = named.node_copy(node, lambda n: made[n])
            _free_of_strides(made[node])
    named.eliminate_dead_code()
    return named


def changes_operands(node: fx.Node) -> bool:
    """Whether an operator writes to one of its operands."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _spell_constants(graph: fx.Graph) -> None:
    """A number that an operator's Python made a tensor of becomes a call.

    Raises
    ------
    CaptureError
        For a tensor of several numbers.
    """
    for node in graph.find_nodes(op="get_attr"):
        value = getattr(graph.owning_module, node.target)
        if value.numel() != 1:
            raise CaptureError(
                f"a custom operator makes a constant of {value.numel()} "
                "numbers in its forward or backward; pass it as an input")
        with _disable_current_modes():
            number = value.item()
        with graph.inserting_before(node):
            spelt = graph.call_function(aten.full.default,
                                        (list(value.shape), number), {
                                            "dtype": value.dtype,
                                            "device": value.device
                                        })
        spelt.meta = dict(node.meta)
        node.replace_all_uses_with(spelt)
        graph.erase_node(node)


def _functional(graph: fx.Graph) -> fx.Graph:
    """Record once more; in-place operators become functional ones."""
    module = fx.GraphModule(torch.nn.Module(), graph)
    fakes: list[Any] = [
        node.meta["val"] for node in graph.nodes if node.op == "placeholder"
    ]
    run = torch.func.functionalize(fx.Interpreter(module).run)
    with fx_traceback.preserve_node_meta():
        return make_fx(run)(*fakes).graph


def _free_of_strides(node: fx.Node) -> None:
    """What arrives may have other strides than what was recorded."""
    if node.target in _VIEWS:
        node.target = aten.reshape.default
