"""One operator call, run on simulated ranks under chosen options."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import unittest
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from passes.collectives import AxisRef
from passes.differentiate import differentiate, interpret
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.lowerings.registry import lowering_for
from passes.split_backward import split_backward
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout
from planner.ir.layouts import CallLayout, ClassLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import BlockClass
from planner.rules import Option, TensorSpec, options
from planner.rules.numeric import call_of
from planner.rules.registry import OpCall
from scaletorch.runtime.bind import bind
from scaletorch.runtime.groups import Groups
from tests.test_passes.simulated import (gathered, gradient_layout, on_mesh,
                                         same, spread)

__all__ = ["Call", "ONE", "TWO", "check_lowerings", "check_lowerings_on"]

ONE = MeshSpec(("x", ), (2, ))
TWO = MeshSpec(("x", "y"), (2, 2))

Tensors = Sequence[torch.Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operator with real arguments."""

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[torch.Tensor]:
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [x for x in leaves if isinstance(x, torch.Tensor)]

    def choices(self, mesh: MeshSpec,
                lowering: str) -> list[tuple[Option, ...]]:
        """All options over the axes in which a lowering takes part."""
        call, _ = call_of(self.op, self.args, self.kwargs)
        every = [options(call, size) for size in mesh.sizes]
        named = [
            chosen for chosen in itertools.product(*every)
            if any(o.lowering == lowering
                   for o in chosen) and _compose(call, chosen)
        ]
        return [c for c in named if self._fits(CallLayout(options=c), mesh)]

    def _fits(self, chosen: CallLayout, mesh: MeshSpec) -> bool:
        call, tensors = call_of(self.op, self.args, self.kwargs)
        pairs = [(s.shape, chosen.input(i)) for i, s in enumerate(call.inputs)]
        pairs += [(s.shape, chosen.output(i))
                  for i, s in enumerate(call.outputs)]
        for shape, layout in pairs:
            sizes = list(shape)
            for placement, size in zip(layout, mesh.sizes, strict=True):
                if placement.is_shard:
                    if sizes[placement.dim] % size:
                        return False
                    sizes[placement.dim] //= size
        return True

    def block(self, chosen: CallLayout) -> tuple[BlockClass, ClassLayout]:
        """A block of this call alone, its operands as the call wants."""
        graph = fx.Graph()
        leaves, tree = pytree.tree_flatten((self.args, dict(self.kwargs)))
        hubs: dict[str, Layout] = {}
        nodes = []
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor):
                label = f"x{len(hubs)}"
                node = graph.placeholder(label)
                node.meta = {"spec": _spec(leaf), "label": label}
                hubs[label] = chosen.input(len(hubs))
                leaf = node
            nodes.append(leaf)
        args, kwargs = pytree.tree_unflatten(nodes, tree)
        call = graph.call_function(self.op, args, kwargs)
        outputs = self.op(*self.args, **self.kwargs)
        call.meta = {"label": "call", "spec": _specs(outputs)}
        graph.output(tuple(_picks(graph, call, outputs)))
        return (BlockClass(name="block", graph=graph),
                ClassLayout(calls={"call": chosen}, hubs=hubs))


def _compose(call: OpCall, chosen: Sequence[Option]) -> bool:
    """Whether the axes' lowerings are one function's; others are never
    chosen together."""
    try:
        lowering_for(call, chosen)
    except LayoutError:
        return False
    return True


def check_lowerings(test: unittest.TestCase,
                    call: Call,
                    lowering: str,
                    *,
                    outputs: int | None = None,
                    tolerance: float = 1e-9) -> None:
    """Compare every option with the lowering to the whole call.

    Eagerly on 2 and on 2x2 ranks, and traced and split on 2.

    Parameters
    ----------
    outputs : int, optional
        How many outputs carry gradients and are compared; all if left out.
    tolerance : float
        Relative and absolute.
    """
    for mesh, how in ((ONE, _eager), (TWO, _eager), (ONE, _traced)):
        chosen = call.choices(mesh, lowering)
        test.assertTrue(chosen, f"no option with {lowering} on {mesh}")
        _check(test, call, [CallLayout(options=c) for c in chosen], mesh, how,
               outputs, tolerance)


def check_lowerings_on(test: unittest.TestCase,
                       call: Call,
                       lowering: str,
                       mesh: MeshSpec,
                       *,
                       tolerance: float = 1e-9) -> None:
    """As :func:`check_lowerings`, on one mesh, eagerly and traced, where
    one axis alone has a lowering."""
    chosen = [
        c for c in call.choices(mesh, lowering)
        if sum(o.lowering is not None for o in c) == 1
    ]
    test.assertTrue(chosen, f"no option with {lowering} on {mesh}")
    for how in (_eager, _traced):
        _check(test, call, [CallLayout(options=c) for c in chosen], mesh, how,
               None, tolerance)


Run = Callable[[Call, CallLayout, MeshSpec, int, Groups, int], tuple[Tensors,
                                                                     Tensors]]


def _check(test: unittest.TestCase, call: Call, chosen: list[CallLayout],
           mesh: MeshSpec, how: Run, outputs: int | None,
           tolerance: float) -> None:
    whole = _tensors(call.op(*call.args, **call.kwargs))[:outputs]
    wanted = _gradients(whole, call.tensors, [_tangent(y) for y in whole])

    def work(rank: int, groups: Groups) -> list[Any]:
        return [how(call, c, mesh, rank, groups, len(whole)) for c in chosen]

    found = on_mesh(mesh, work)
    for number, layout in enumerate(chosen):
        text = " | ".join(map(str, layout.options))
        with test.subTest(f"{call.op} {text} {how.__name__}"):
            for i, value in enumerate(whole):
                parts = [ranks[number][0][i] for ranks in found]
                _compare(test, parts, layout.output(i), mesh, value, tolerance)
            for i, grad in enumerate(wanted):
                if grad is not None:
                    parts = [ranks[number][1][i] for ranks in found]
                    back = gradient_layout(layout.input(i))
                    _compare(test, parts, back, mesh, grad, tolerance)


def _compare(test: unittest.TestCase, parts: Sequence[torch.Tensor],
             layout: Layout, mesh: MeshSpec, whole: torch.Tensor,
             tolerance: float) -> None:
    found = gathered([p.detach() for p in parts], layout, mesh)
    if not same(found, whole.detach(), tolerance):
        test.fail(f"{layout}: {found.dtype} {tuple(found.shape)} "
                  f"{found.flatten()[:6]} for {whole.dtype} "
                  f"{tuple(whole.shape)} {whole.flatten()[:6]}")


def _eager(call: Call, chosen: CallLayout, mesh: MeshSpec, rank: int,
           groups: Groups, outputs: int) -> tuple[Tensors, Tensors]:
    """The local graph under autograd, without a trace."""
    graph = localize_shapes(insert_collectives(*call.block(chosen), mesh, {}),
                            mesh)
    local = _local(call, chosen, mesh, rank)
    results = interpret(graph, groups.axes, torch.device("cpu"),
                        local)[:outputs]
    tangents = _local_tangents(call, chosen, mesh, rank, outputs)
    return results, _gradients(results, local, tangents)


def _traced(call: Call, chosen: CallLayout, mesh: MeshSpec, rank: int,
            groups: Groups, outputs: int) -> tuple[Tensors, Tensors]:
    """The forward and backward graph that the passes make."""
    block, layout = call.block(chosen)
    graph = localize_shapes(insert_collectives(block, layout, mesh, {}), mesh)
    specs = [(n.meta["spec"], layout.hubs[n.name]) for n in block.placeholders]
    joint = differentiate(graph,
                          _named(groups),
                          device=torch.device("cpu"),
                          specs=specs,
                          wanted=range(outputs))
    split = split_backward(joint)
    local = [x.detach() for x in _local(call, chosen, mesh, rank)]
    out = bind(split.forward, groups)(0, *local)
    results = out[:split.results][:outputs]
    if split.backward is None:
        return results, [None] * len(local)
    tangents = _local_tangents(call, chosen, mesh, rank, outputs)
    saved = [local[i] for i in split.saved_operands]
    grads = bind(split.backward,
                 groups)(0, *saved, *out[split.results:],
                         *(tangents[i] for i in split.tangents))
    return results, grads


def _named(groups: Groups) -> list[AxisRef]:
    """The axes under the names they have in a program."""
    return [
        dataclasses.replace(axis, name=name)
        for axis, name in zip(groups.axes, groups.names, strict=True)
    ]


def _local(call: Call, chosen: CallLayout, mesh: MeshSpec,
           rank: int) -> list[torch.Tensor]:
    return [
        spread(x.detach(), chosen.input(i),
               mesh)[rank].contiguous().requires_grad_(x.requires_grad)
        for i, x in enumerate(call.tensors)
    ]


def _local_tangents(call: Call, chosen: CallLayout, mesh: MeshSpec, rank: int,
                    outputs: int) -> list[torch.Tensor]:
    whole = _tensors(call.op(*call.args, **call.kwargs))[:outputs]
    return [
        spread(_tangent(y), gradient_layout(chosen.output(i)),
               mesh)[rank].contiguous() for i, y in enumerate(whole)
    ]


def _tangent(value: torch.Tensor) -> torch.Tensor:
    ramp = torch.arange(value.numel(), dtype=torch.float64)
    return (torch.cos(ramp) + 2).reshape(value.shape).to(value.dtype)


def _gradients(results: Tensors, operands: Sequence[torch.Tensor],
               tangents: Tensors) -> list[torch.Tensor | None]:
    pairs = [(y, t) for y, t in zip(results, tangents, strict=True)
             if y is not None and y.requires_grad]
    wanted = [x for x in operands if x.requires_grad]
    if not pairs or not wanted:
        return [None] * len(operands)
    found = iter(
        torch.autograd.grad([y for y, _ in pairs],
                            wanted, [t for _, t in pairs],
                            allow_unused=True,
                            materialize_grads=True))
    return [next(found) if x.requires_grad else None for x in operands]


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [
        x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)
    ]


def _spec(x: torch.Tensor) -> TensorSpec:
    return TensorSpec(shape=tuple(x.shape),
                      dtype=x.dtype,
                      requires_grad=x.requires_grad)


def _specs(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return _spec(outputs)
    return tuple(map(_spec, outputs))


def _picks(graph: fx.Graph, call: fx.Node, outputs: Any) -> list[fx.Node]:
    if isinstance(outputs, torch.Tensor):
        return [call]
    return [
        graph.call_function(operator.getitem, (call, i))
        for i in range(len(outputs))
    ]
