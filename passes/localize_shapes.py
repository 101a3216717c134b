"""Pass: global sizes in the calls become the sizes that one rank holds.

Needs the graph of :mod:`passes.insert_collectives`. Leaves calls that run
on local tensors: size arguments localised, calls with a lowering bound to
the function that computes them, views that a local stride could refuse
turned into reshapes, and random calls marked with what decides their
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from passes.lowerings.registry import lowering_for
from planner.ir.layout import local_shape
from planner.ir.mesh import MeshSpec
from planner.ir.values import call_of
from planner.rules.draws import draws
from planner.rules.localize import localize
from planner.rules.registry import Arg, OpCall, Option

__all__ = ["RandomStream", "localize_shapes"]

aten = torch.ops.aten

_RESHAPES = (aten.view.default, aten._unsafe_view.default)


def localize_shapes(
        graph: fx.Graph,
        mesh: MeshSpec,
        divisors: Sequence[int | Fraction] | None = None) -> fx.Graph:
    """Localise every call; see the module's docstring.

    Parameters
    ----------
    graph : fx.Graph
    mesh : MeshSpec
    divisors : sequence of int or Fraction, optional
        What divides this rank's dims along each axis; left out: the sizes
        of the axes.
    """
    local = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        made[node] = local.node_copy(node, lambda n: made[n])
        if "options" in node.meta:
            _localize_call(made[node], node.meta["node"], mesh, divisors
                           or mesh.sizes)
    return local


def _localize_call(node: fx.Node, original: fx.Node, mesh: MeshSpec,
                   divisors: Sequence[int | Fraction]) -> None:
    call = call_of(original)
    options: tuple[Option, ...] = node.meta["options"]
    lowering = lowering_for(call, options)
    if lowering is not None:
        node.meta["lowering"] = lowering
        node.meta["call"] = call
    else:
        _localize_sizes(node, call, options, divisors)
    if draws(call):
        node.meta["random"] = RandomStream(label=original.meta["label"],
                                           axes=_shard_axes(options, mesh))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomStream:
    """What a random call's stream depends on: its place and its shards."""

    label: str
    axes: tuple[str, ...]


def _shard_axes(options: tuple[Option, ...],
                mesh: MeshSpec) -> tuple[str, ...]:
    return tuple(name for name, option in zip(mesh.names, options, strict=True)
                 if option.is_sharded)


def _localize_sizes(node: fx.Node, call: OpCall, options: tuple[Option, ...],
                    divisors: Sequence[int | Fraction]) -> None:
    shapes = tuple(
        local_shape(spec.shape, tuple(o.outputs[i] for o in options), divisors)
        for i, spec in enumerate(call.outputs))
    args, kwargs = localize(call, shapes)
    operands = [
        leaf for leaf in pytree.tree_leaves((node.args, node.kwargs))
        if isinstance(leaf, fx.Node)
    ]

    def restore(leaf: Any) -> Any:
        return operands[leaf.index] if isinstance(leaf, Arg) else leaf

    node.args, node.kwargs = pytree.tree_map(restore, (args, kwargs))
    if node.target in _RESHAPES:
        node.target = aten.reshape.default
