"""One call of the model as one node of the user's autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from planner.ir.program import Program
from scaletorch.runtime.compiled import Compiled
from scaletorch.runtime.executor import Tape
from scaletorch.runtime.retained import graph_is_retained
from scaletorch.sharding import from_local

__all__ = ["run_call"]


def run_call(compiled: Compiled, state: Sequence[torch.Tensor],
             inputs: Sequence[torch.Tensor], seed: int,
             agree: Callable[[], object]) -> Any:
    """Run a program on its state and inputs.

    Parameters
    ----------
    compiled : Compiled
    state : sequence of Tensor
        Parameters (DTensors) and buffers, as ``compiled.state`` names them.
    inputs : sequence of Tensor
        On this rank's device.
    seed : int
        What the call's random streams derive from.
    agree : callable
        Raises where other ranks run something else; called before the
        first collective.

    Returns
    -------
    object
        What the single-device model returns.
    """
    program = compiled.program
    tensors = (*state, *inputs)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    flat = iter(
        _global(compiled, _Call.apply(compiled, (seed, agree), keep,
                                      *tensors)))
    leaves = [
        next(flat) if name is not None else constant for name, constant in zip(
            program.outputs, program.output_constants, strict=True)
    ]
    return pytree.tree_unflatten(leaves, program.output_tree)


def _global(compiled: Compiled,
            outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs that stay sharded become DTensors of the global shape."""
    return [
        x if where is None else DTensor.from_local(
            x,
            compiled.mesh, [p.value for p in where[1]],
            run_check=False,
            shape=torch.Size(where[0].shape),
            stride=_strides(where[0].shape))
        for x, where in zip(outputs, compiled.returned, strict=True)
    ]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor."""
    return torch.empty(shape, device="meta").stride()


class _Call(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, compiled: Compiled,
                start: tuple[int, Callable[[], object]], keep: bool, *tensors:
                torch.Tensor) -> tuple[torch.Tensor, ...]:
        seed, agree = start
        names = (*compiled.state, *compiled.inputs)
        local = {
            n: t.to_local() if isinstance(t, DTensor) else t
            for n, t in zip(names, tensors, strict=True)
        }
        values = {**compiled.constants, **local}
        if keep:
            for name in compiled.program.mutations:
                # The next call writes to the buffer; the backward of this
                # one needs what it was.
                values[name] = values[name].clone()
        tape = Tape(seed=seed) if keep else None
        compiled.executor.counts.begin()
        outputs, mutations = compiled.executor.forward(values,
                                                       seed,
                                                       tape=tape,
                                                       agree=agree)
        for name, value in mutations.items():
            local[name].copy_(value)
        ctx.tape, ctx.compiled, ctx.tensors = tape, compiled, tensors
        ctx.versions = _versions(names, tensors)
        ctx.set_materialize_grads(False)
        returned: tuple[torch.Tensor, ...] = ()
        for x in outputs:
            if x is not None:
                returned += (_fresh(x, (*tensors, *returned)), )
        ctx.mark_non_differentiable(*(x for x, is_needed in zip(
            returned, compiled.differentiable, strict=True) if not is_needed))
        return returned

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        compiled: Compiled = ctx.compiled
        program = compiled.program
        _refuse_again(ctx)
        supply = iter(grads)
        tangents = [
            _whole(next(supply)) if name is not None else None
            for name in program.outputs
        ]
        _refuse_foreign(program, tangents)
        names = (*compiled.state, *compiled.inputs)
        pairs = list(zip(names, ctx.tensors, strict=True))
        _refuse_changed(ctx.versions, _versions(names, ctx.tensors))
        wanted = [n for n, t in pairs if t.requires_grad]
        tape = ctx.tape.copied() if graph_is_retained() else ctx.tape
        local = compiled.executor.backward(tape, tangents, wanted)
        found = [
            _like(local.get(n), t) if t.requires_grad else None
            for n, t in pairs
        ]
        return (None, None, None, *found)


def _whole(tangent: torch.Tensor | None) -> torch.Tensor | None:
    """Of a loss to which a loop has added terms of parameters, which are
    DTensors, the gradient is one too."""
    if isinstance(tangent, DTensor):
        return tangent.full_tensor()
    return tangent


def _fresh(value: torch.Tensor, others: tuple[torch.Tensor,
                                              ...]) -> torch.Tensor:
    """Outputs must not be inputs themselves, nor one output another:
    autograd would tie them."""
    return value.clone() if any(value is x for x in others) else value


def _versions(names: Sequence[str],
              tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """How often each parameter and input was written to so far."""
    return {
        n: t._version
        for n, t in zip(names, tensors, strict=True)
        if not n.startswith("buffer:") and not t.is_inference()
    }


def _refuse_again(ctx: Any) -> None:
    if ctx.tape is None or ctx.tape.used:
        raise RuntimeError(
            "the backward pass of this call has run already, and freed what "
            "the call had saved; give all but the last backward pass of a "
            "call retain_graph=True, or add up the losses and call backward "
            "once")
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gradients of gradients (create_graph=True) do not go through a "
            "parallel module: only the first backward pass is compiled")


def _refuse_changed(before: dict[str, int], now: dict[str, int]) -> None:
    changed = [n for n in before if before[n] != now[n]]
    if changed:
        kind, _, name = changed[0].partition(":")
        what = f"input {name}" if kind == "input" else f"parameter {name}"
        raise RuntimeError(
            f"{what} was changed in place between the forward and the "
            "backward pass of a call (an optimizer step?): its gradient "
            "would be wrong; run the backward first")


def _refuse_foreign(program: Program,
                    tangents: list[torch.Tensor | None]) -> None:
    if program.loss is None:
        return
    foreign = [
        i for i, t in enumerate(tangents)
        if t is not None and i != program.loss
    ]
    if foreign:
        raise RuntimeError(
            f"a gradient arrived at output {foreign[0]} of "
            f"{program.model_name}, but the model returns a loss and only "
            "the loss is differentiated; compute the other term inside the "
            "model or in loss_fn, or detach that output")


def _like(grad: torch.Tensor | None,
          tensor: torch.Tensor) -> torch.Tensor | None:
    if grad is None or not isinstance(tensor, DTensor):
        return grad
    return from_local(grad, tensor)
