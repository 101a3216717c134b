"""Pass: the joint forward and backward graph of a local block.

Needs the graph of :mod:`passes.localize_shapes`. Runs it on fake local
tensors under autograd and records what happens, so that the backward has
local shapes, the device's own kernels and the adjoint collectives without
any rule for backward operators.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from passes.clean import clean
from passes.collectives import AxisRef, convert
from passes.conversions import convert_node, step_placements
from passes.fold_views import fold_views
from passes.lowerings.registry import Context
from planner.ir.layout import Layout, local_shape
from planner.rules.registry import TensorSpec

__all__ = ["Joint", "differentiate", "fake_local", "interpret"]

_TRACING = threading.Lock()
"""Tracing patches modules for the whole process; ranks that are threads
take turns."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A joint graph and what its placeholders and outputs are.

    Parameters
    ----------
    graph : fx.Graph
        Placeholders: the block's operands, then one tangent for each
        differentiable result. Outputs: the results, then one gradient for
        each operand (None where there is none).
    operands, results : int
        How many of each.
    tangents : tuple of int
        Which results take a tangent.
    """

    graph: fx.Graph
    operands: int
    results: int
    tangents: tuple[int, ...]


def fake_local(spec: TensorSpec, layout: Layout, axes: Sequence[AxisRef],
               device: torch.device, mode: FakeTensorMode) -> torch.Tensor:
    """A fake of this rank's part of a value."""
    shape = local_shape(spec.shape, layout, [a.divisor for a in axes])
    with mode:
        return torch.empty(shape,
                           dtype=spec.dtype,
                           device=device,
                           requires_grad=spec.requires_grad)


class _Run(fx.Interpreter):
    """Executes a local graph; conversions and lowerings get this rank."""

    def __init__(self, graph: fx.Graph, axes: Sequence[AxisRef],
                 device: torch.device) -> None:
        super().__init__(torch.nn.Module(),
                         graph=graph,
                         garbage_collect_values=False)
        self.axes = {a.name: a for a in axes}
        self.device = device

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        with _annotated(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self._call(n, args, kwargs)

    def _call(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        if n.target is convert_node:
            source, target = step_placements(n)
            return convert(args[0], source, target, self.axes[kwargs["axis"]])
        if n.target is operator.getitem:
            return args[0][args[1]]
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self.device}
        if "lowering" in n.meta:
            context = Context(call=n.meta["call"],
                              options=n.meta["options"],
                              axes=tuple(self.axes.values()))
            return n.meta["lowering"](context, *args, **kwargs)
        assert callable(n.target)
        return n.target(*args, **kwargs)


def interpret(graph: fx.Graph, axes: Sequence[AxisRef], device: torch.device,
              operands: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Run a local graph eagerly, under autograd.

    Parameters
    ----------
    graph : fx.Graph
        Out of localize_shapes.
    axes : sequence of AxisRef
        This rank's view of the mesh.
    device : torch.device
        On which factories make tensors.
    operands : sequence of Tensor
        This rank's, one for each placeholder.

    Returns
    -------
    tuple
        What the graph returns.
    """
    return _Run(graph, axes, device).run(*operands)


@contextlib.contextmanager
def _annotated(n: fx.Node) -> Iterator[None]:
    """Let what is recorded remember the node, and its random stream."""
    stream = n.meta.get("random")
    # Torch's notes are global: one that is not set here could be another's.
    notes = {
        "label": n.meta.get("label", ""),
        "random": (stream.label, stream.axes) if stream is not None else None
    }
    with fx_traceback.annotate(notes):
        yield


def differentiate(graph: fx.Graph,
                  axes: Sequence[AxisRef],
                  *,
                  device: torch.device,
                  specs: Sequence[tuple[TensorSpec, Layout]],
                  wanted: Collection[int] | None = None) -> Joint:
    """Record the joint graph of a local block.

    Parameters
    ----------
    graph : fx.Graph
        A local forward graph.
    axes : sequence of AxisRef
        This rank's place on the mesh, one per axis.
    device : torch.device
        Where the block will run; its kernels are the ones recorded.
    specs : sequence of (TensorSpec, Layout)
        Of each placeholder.
    wanted : collection of int, optional
        Results that may receive a tangent; None: all that carry a
        gradient; empty: forward only.
    """
    needs_grad = wanted is None or len(wanted) > 0
    mode = FakeTensorMode()
    operands = [
        fake_local(spec, layout, axes, device, mode) for spec, layout in specs
    ]
    runner = _Run(graph, axes, device)
    with _TRACING, mode, torch.set_grad_enabled(needs_grad):
        tangents = _tangents(runner, operands, wanted)

        def joint(*flat: torch.Tensor) -> list[torch.Tensor | None]:
            given = flat[:len(operands)]
            results = list(runner.run(*given))
            grads = _gradients(results, given, tuple(tangents),
                               flat[len(operands):])
            return results + grads

        with fx_traceback.preserve_node_meta(), _no_autocast(device):
            module = make_fx(joint)(*operands, *tangents.values())
        names = [n.name for n in graph.nodes if n.op == "placeholder"]
        names += [f"tangent_{i}" for i in tangents]
        found = fold_views(clean(module.graph, names, len(tangents)))
    results = len(graph.output_node().args[0])
    return Joint(graph=found,
                 operands=len(operands),
                 results=results,
                 tangents=tuple(tangents))


def _no_autocast(device: torch.device) -> torch.autocast:
    """Casts are in the graph already; an ambient autocast adds none."""
    return torch.autocast(device.type, enabled=False)


def _tangents(runner: _Run, operands: Sequence[torch.Tensor],
              wanted: Collection[int] | None) -> Mapping[int, torch.Tensor]:
    """A fake tangent for every wanted result that carries a gradient."""
    if wanted is not None and not wanted:
        return {}
    results = runner.run(*operands)
    return {
        i:
        torch.empty_like(r,
                         requires_grad=False,
                         memory_format=torch.contiguous_format)
        for i, r in enumerate(results)
        if r.requires_grad and (wanted is None or i in wanted)
    }


def _gradients(results: Sequence[torch.Tensor],
               operands: Sequence[torch.Tensor], which: Sequence[int],
               tangents: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    wanted = [x for x in operands if x.requires_grad]
    if not which or not wanted:
        return [None] * len(operands)
    found = iter(
        torch.autograd.grad([results[i] for i in which],
                            wanted,
                            list(tangents),
                            allow_unused=True))
    return [next(found) if x.requires_grad else None for x in operands]
