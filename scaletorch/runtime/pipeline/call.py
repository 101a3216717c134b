"""One call of a pipelined model as one node of the user's autograd graph.

The schedule interleaves forward and backward, so the call runs both, and
``loss.backward()`` hands out gradients that are there already. They were
computed for the gradient that the loss was given last time (that of a loss
scaler, say, which keeps half precision in range) and are rescaled where
this time it is another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from scaletorch.pipeline_share import share_of
from scaletorch.runtime.pipeline.not_returned import NotReturned
from scaletorch.runtime.pipeline.program import PipelineProgram
from scaletorch.runtime.retained import graph_is_retained
from scaletorch.sharding import from_local
from scaletorch.stage_gradients import stage_gradient

__all__ = ["run_pipeline_call"]


def run_pipeline_call(compiled: PipelineProgram, state: Sequence[torch.Tensor],
                      inputs: Sequence[torch.Tensor], seed: int, *,
                      outputs: str) -> Any:
    """Run a step, or under ``no_grad`` its forward alone.

    Parameters
    ----------
    compiled : PipelineProgram
    state : sequence of Tensor
        Parameters (DTensors) and buffers, as ``compiled.state`` names them.
    inputs : sequence of Tensor
    seed : int
    outputs : {"global", "loss"}
        Whether outputs beside the loss come to every rank.

    Returns
    -------
    object
        What the single-device model returns; in place of outputs that were
        not asked for something that can't be used.

    Raises
    ------
    RuntimeError
        For gradients that a pipeline can't give.
    """
    program = compiled.program
    keep = torch.is_grad_enabled() and any(s.requires_grad
                                           for s in program.specs.values())
    _refuse(compiled, inputs, keep)
    every = [i for i, n in enumerate(program.outputs) if n is not None]
    returned = [program.loss] if outputs == "loss" and keep else every
    assert None not in returned
    # Ranks whose parameters are all frozen take part in the backward too.
    anchor = torch.zeros((), requires_grad=keep)
    found = dict(
        zip(
            returned,
            _Call.apply(compiled, seed, keep, tuple(returned), anchor, *state,
                        *inputs)))
    leaves = [
        found.get(i, NotReturned()) if name is not None else constant
        for i, (name, constant) in enumerate(
            zip(program.outputs, program.output_constants, strict=True))
    ]
    return pytree.tree_unflatten(leaves, program.output_tree)


def _refuse(compiled: PipelineProgram, inputs: Sequence[torch.Tensor],
            keep: bool) -> None:
    program = compiled.program
    if keep and program.loss is None:
        raise RuntimeError(
            f"{program.model_name} returns no loss, and a pipeline runs the "
            "backward of each micro-batch within the call: pass loss_fn to "
            "auto_parallelize, or call the model under torch.no_grad()")
    if keep and any(x.requires_grad for x in inputs):
        raise RuntimeError("gradients of inputs don't come out of a "
                           "pipeline: detach them, or train without one")


class _Call(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, compiled: PipelineProgram, seed: int, keep: bool,
                returned: tuple[int, ...], anchor: torch.Tensor, *tensors:
                torch.Tensor) -> tuple[torch.Tensor, ...]:
        del anchor
        names = (*compiled.state, *compiled.inputs)
        local = {
            n: t.to_local() if isinstance(t, DTensor) else t
            for n, t in zip(names, tensors, strict=True)
        }
        scale = compiled.last_scale if keep else 1.0
        outputs, mutations, grads = compiled.run(local,
                                                 seed,
                                                 keep=keep,
                                                 returned=returned,
                                                 scale=scale)
        for name, value in mutations.items():
            local[name].copy_(value)
        ctx.grads, ctx.compiled, ctx.scale = grads, compiled, scale
        ctx.tensors, ctx.names, ctx.kept = tensors, names, keep
        ctx.loss = compiled.program.loss
        ctx.set_materialize_grads(False)
        found = tuple(outputs[i] for i in returned)
        ctx.mark_non_differentiable(*(x for i, x in zip(returned, found)
                                      if i != ctx.loss))
        ctx.position = (returned.index(ctx.loss)
                        if ctx.loss in returned else None)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        if ctx.grads is None:
            raise RuntimeError(
                "the backward pass of this call has run already, and handed "
                "out its gradients; give all but the last backward pass of "
                "a call retain_graph=True, or call the model again")
        if torch.is_grad_enabled():
            raise RuntimeError("gradients of gradients (create_graph=True) "
                               "do not go through a parallel module")
        given, retained = ctx.grads, graph_is_retained()
        if not retained:
            ctx.grads = None
        tangent = grads[ctx.position]
        if tangent is None:
            return (None, ) * (5 + len(ctx.tensors))
        wanted = float(tangent)
        if math.isfinite(wanted) and wanted != 0.0:
            ctx.compiled.last_scale = wanted
        factor = wanted / ctx.scale
        found = []
        for name, tensor in zip(ctx.names, ctx.tensors, strict=True):
            grad = given.get(name) if tensor.requires_grad else None
            if grad is not None and (factor != 1.0 or retained):
                # Autograd adds to what it is given, which is wanted again.
                grad = grad * factor
            if grad is not None and isinstance(tensor, DTensor):
                grad = stage_gradient(from_local(grad, tensor),
                                      share_of(tensor))
            found.append(grad)
        return (None, None, None, None, None, *found)
