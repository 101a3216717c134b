"""Clean a traced graph: one form for what is spelled in several ways.

``normalize`` leaves a graph without guards, aliases and unused calls, in
which every call is differentiable where it should be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from planner.capture.bags import open_bags
from planner.capture.calls import add_call, become
from planner.capture.formulas import Formulas
from planner.capture.joined_rows import part_joined_rows
from planner.capture.known_values import unknown_sizes
from planner.capture.masked_loss import ignore_masked_rows
from planner.capture.masked_rows import compute_all_rows
from planner.capture.masked_sums import sum_all_rows
from planner.capture.masked_targets import keep_targets_in_rows
from planner.capture.masks import simplify_masks
from planner.capture.merged import part_merged_dims
from planner.capture.nodes import source_in_model
from planner.capture.opaque.regions import (has_unknown_shape,
                                            isolate_unknown_shapes)
from planner.capture.projections import open_projections
from planner.capture.rows import gather_rows
from planner.capture.strided import read_strided, write_strided
from planner.capture.traced import Traced
from planner.capture.writes import open_writes
from planner.ir.errors import CaptureError

__all__ = ["normalize"]

_aten = torch.ops.aten

_ASSERTS = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar",
            "sym_constrain_range", "sym_constrain_range_for_size")
_PASS_THROUGH = (_aten.alias.default, _aten.lift_fresh_copy.default)


def normalize(traced: Traced, *, opaque: bool,
              inputs: Sequence[torch.Tensor]) -> tuple[str, ...]:
    """Clean the traced graph in place.

    Parameters
    ----------
    traced : Traced
    opaque : bool
        Whether parts of unknown shapes may be run as they are.
    inputs : sequence of Tensor
        Those of the example call: what they are tells such parts' results.

    Returns
    -------
    tuple of str
        Notes on such parts.

    Raises
    ------
    CaptureError
    """
    graph = traced.graph
    kept = {*traced.outputs, *traced.mutations.values()}
    for node in list(graph.nodes):
        if node.op == "call_function":
            _clean(graph, node, kept)
    drop_unused(graph)
    ignore_masked_rows(graph)
    keep_targets_in_rows(graph)
    sum_all_rows(graph)
    compute_all_rows(graph)
    drop_unused(graph)
    notes = (isolate_unknown_shapes(graph, _known(traced, inputs))
             if opaque else [])
    _reject_unknown_shapes(graph)
    scalars = _scalars(traced)
    simplify_masks(graph, scalars)
    gather_rows(graph, Formulas(scalars))
    open_bags(graph, Formulas(scalars))
    part_merged_dims(graph)
    part_joined_rows(graph, kept)
    open_projections(graph, traced.leaves, kept)
    open_writes(graph)
    drop_unused(graph)
    _join_picks(graph)
    _reject_lost_statistics(graph)
    return tuple(notes)


def _join_picks(graph: fx.Graph) -> None:
    """Put picks of a call's results next to it: blocks are cut between."""
    for node in reversed(list(graph.nodes)):
        if node.target is operator.getitem:
            node.args[0].append(node)


def _reject_unknown_shapes(graph: fx.Graph) -> None:
    """Every size must be a number; none may come out of a tensor."""
    for node in filter(has_unknown_shape, graph.nodes):
        raise CaptureError(
            f"a shape or a number depends on the values of a tensor "
            f"({node.target}), at {source_in_model(node)}; use a "
            "mask of fixed shape, torch.where, or weights of zero "
            "for what is left out",
            module_path=source_in_model(node).module_path,
            unknown_sizes=unknown_sizes(node.meta["val"]))


def _reject_lost_statistics(graph: fx.Graph) -> None:
    """Instance norm writes its running statistics behind the graph's back.

    Unlike batch norm's, no functional operator returns the new ones.
    """
    for node in graph.nodes:
        if node.target == _aten.instance_norm.default:
            running, from_input = node.args[3], node.args[5]
            if running is not None and from_input:
                raise CaptureError(
                    "an instance norm updates running statistics, which a "
                    f"captured program would lose, at {source_in_model(node)}"
                    "; set track_running_stats=False (each instance's own "
                    "are used), or put the module into eval()",
                    module_path=source_in_model(node).module_path)


def _known(traced: Traced,
           inputs: Sequence[torch.Tensor]) -> dict[fx.Node, torch.Tensor]:
    """Values of inputs and constants, if all inputs have any."""
    if any(t.is_meta or isinstance(t, FakeTensor) for t in inputs):
        return {}
    named = {f"input:{i}": t.detach().cpu() for i, t in enumerate(inputs)}
    named |= {f"const:{n}": t for n, t in traced.constants.items()}
    return {
        n: named[leaf]
        for n, leaf in traced.leaves.items() if leaf in named
    }


def _scalars(traced: Traced) -> dict[fx.Node, int | float]:
    """Constants of one element, by their placeholder."""
    constants = ((node, traced.constants[name.removeprefix("const:")])
                 for node, name in traced.leaves.items()
                 if name.startswith("const:"))
    return {
        node: value.item()
        for node, value in constants
        if value.numel() == 1 and value.device.type != "meta"
    }


def drop_unused(graph: fx.Graph) -> None:
    """Erase calls without users, from the end."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _clean(graph: fx.Graph, node: fx.Node, kept: Collection[fx.Node]) -> None:
    name = _op_name(node)
    if name in _ASSERTS:
        graph.erase_node(node)
    elif node.target in _PASS_THROUGH and node not in kept:
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    elif name in _REWRITES and not any(
            map(has_unknown_shape, (node, *node.all_input_nodes))):
        _REWRITES[name](graph, node)


def _op_name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1] if schema else ""


def _cast_instead_of_copy(graph: fx.Graph, node: fx.Node) -> None:
    """``aten.copy`` has no derivative; a cast and an expand have."""
    base, source = node.args[0].meta["val"], node.args[1]
    steps: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    if source.meta["val"].dtype != base.dtype:
        steps.append((_aten._to_copy.default, (), {"dtype": base.dtype}))
    if source.meta["val"].shape != base.shape or not steps:
        steps.append((_aten.expand.default, (list(base.shape), ), {}))
    value = source
    with graph.inserting_before(node):
        for target, args, kwargs in steps[:-1]:
            value = add_call(graph, target, (value, *args), kwargs, like=node)
    target, args, kwargs = steps[-1]
    become(node, target, (value, *args), kwargs)


def _cast_as_other(graph: fx.Graph, node: fx.Node) -> None:
    """``x.type_as(y)`` reads of `y` no more than its type."""
    del graph
    value, dtype = node.args[0], node.meta["val"].dtype
    if value.meta["val"].dtype == dtype:
        become(node, _aten.alias.default, (value, ))
    else:
        become(node, _aten._to_copy.default, (value, ), {"dtype": dtype})


def _grouped_product(graph: fx.Graph, node: fx.Node) -> None:
    """Hugging Face's stand-in for compilers, where the operator exists.

    Its shape function takes bfloat16 alone, whatever its kernels take.
    """
    del graph
    if node.meta["val"].dtype is not torch.bfloat16:
        return
    node.target = _aten._grouped_mm.default
    node.args, node.kwargs = (*node.args, *node.kwargs.values()), {}


def _sum_of_terms(graph: fx.Graph, node: fx.Node) -> None:
    """Losses start at 0 or end as 1 minus a mean: a number is a term too.

    A sum over the batch of which each rank has a part stays one with another
    term that is a tensor, and with zero is that sum itself.
    """
    value, number = node.args[:2]
    if (not isinstance(value, fx.Node) or isinstance(number, fx.Node)
            or node.kwargs):
        return
    own, made = value.meta["val"], node.meta["val"]
    name = _op_name(node)
    if not own.is_floating_point() or own.dtype != made.dtype:
        return
    if number == 0 and name != "rsub":
        become(node, _aten.alias.default, (value, ))
        return
    if own.ndim or own.dtype not in (torch.float32, torch.float64):
        return
    with graph.inserting_before(node):
        term = add_call(graph,
                        _aten.full.default, ([], float(number)), {
                            "dtype": own.dtype,
                            "device": own.device
                        },
                        like=node)
    if name == "add":
        become(node, _aten.add.Tensor, (value, term))
    else:
        pair = (term, value) if name == "rsub" else (value, term)
        become(node, _aten.sub.Tensor, pair)


def _named_dims(graph: fx.Graph, node: fx.Node) -> None:
    """Which dims ``squeeze`` removes must not depend on local sizes."""
    del graph
    if node.target is _aten.squeeze.default:
        shape = node.args[0].meta["val"].shape
        ones = [d for d, size in enumerate(shape) if size == 1]
        become(node, _aten.squeeze.dims, (node.args[0], ones))


_REWRITES: dict[str, Callable[[fx.Graph, fx.Node], None]] = {
    "copy": _cast_instead_of_copy,
    "type_as": _cast_as_other,
    "grouped_mm_fallback": _grouped_product,
    "as_strided": read_strided,
    "as_strided_scatter": write_strided,
    "squeeze": _named_dims,
    "add": _sum_of_terms,
    "sub": _sum_of_terms,
    "rsub": _sum_of_terms,
}
