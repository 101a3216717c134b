"""Functions as blocks of their own, differentiated and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from passes.collectives import AxisRef
from passes.differentiate import Joint, differentiate
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.split_backward import SplitBlock
from planner.capture.capture import capture
from planner.ir.layout import Layout, R
from planner.ir.layouts import CallLayout, ClassLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import BlockClass
from planner.ir.values import Value, call_of, calls_of
from planner.rules import OpCall, Option, options
from scaletorch.runtime.bind import bind
from scaletorch.runtime.groups import Groups

__all__ = ["MESH", "Choose", "block_of", "draws_of", "joint_of", "run_split"]

MESH = MeshSpec(("x", ), (2, ))

Choose = Callable[[OpCall], Option]


class _Function(nn.Module):

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.train(getattr(function, "training", True))

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.function(*tensors)


def block_of(function: Callable[..., torch.Tensor], *tensors:
             torch.Tensor) -> BlockClass:
    """The one block class of a function of tensors to a scalar."""
    program = capture(_Function(function), tensors, loss_fn=lambda y: y)
    cls, = program.classes.values()
    return cls


def joint_of(cls: BlockClass,
             *,
             rank: int = 0,
             choose: Choose = lambda call: options(call, 2)[0],
             hubs: Mapping[str, Layout] | None = None) -> Joint:
    """Its joint graph for a rank of `MESH`, replicated if not said.

    Parameters
    ----------
    choose : callable
        The option of a call.
    hubs : mapping, optional
        Layouts of values that are not replicated, or as made.
    """
    layout = ClassLayout(
        calls={
            n.meta["label"]: CallLayout(options=(choose(call_of(n)), ))
            for n in calls_of(cls.graph)
        },
        hubs={Value(n).label: (R, )
              for n in cls.placeholders} | dict(hubs or {}))
    graph = localize_shapes(insert_collectives(cls, layout, MESH, {}), MESH)
    axes = [AxisRef(name="x", size=2, coordinate=rank)]
    specs = [(n.meta["spec"], n.meta["layout"]) for n in graph.nodes
             if n.op == "placeholder"]
    return differentiate(graph, axes, device=torch.device("cpu"), specs=specs)


def run_split(split: SplitBlock,
              operands: Sequence[torch.Tensor],
              *,
              seed: int = 0,
              rank: int = 0) -> tuple[list[Any], list[torch.Tensor | None]]:
    """Results and gradients; tangents are ones."""
    axis = AxisRef(name="x", size=2, coordinate=rank)
    groups = Groups.of(("x", ), (axis, ), (None, ))
    out = bind(split.forward, groups)(seed, *operands)
    results = list(out[:split.results])
    assert split.backward is not None
    tangents = [torch.ones_like(results[i]) for i in split.tangents]
    given = [
        *(operands[i] for i in split.saved_operands), *out[split.results:],
        *tangents
    ]
    grads = list(bind(split.backward, groups)(seed, *given))
    if split.weight_gradient is None:
        return results, grads
    given += grads[len(operands):]
    later = bind(split.weight_gradient,
                 groups)(seed, *(given[i] for i in split.weight_reads))
    return results, [a if b is None else b for a, b in zip(grads, later)]


def draws_of(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a traced graph that draw random numbers."""
    return [
        n for n in graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
    ]
