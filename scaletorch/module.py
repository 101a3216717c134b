"""The parallel module: a drop-in for the single-device one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from passes.collectives import AxisRef
from passes.lower import lower
from planner.capture.capture import capture_call
from planner.capture.entry import Call, bind_inputs
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Program
from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.executor import Executor, Tape
from scaletorch.sharding import (from_local, mesh_device, mesh_rank,
                                  shard_state)

__all__ = ["ParallelModule"]

Planner = Callable[[Program], ProgramLayout]


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    """One captured input signature, lowered and bound."""

    program: Program
    layout: ProgramLayout
    executor: Executor
    constants: Mapping[str, torch.Tensor]


class ParallelModule(nn.Module):
    """A model spread over a mesh; made by ``scaletorch.auto_parallelize``.

    Parameters are DTensors under the original names. ``forward`` takes the
    global batch on every rank and returns on every rank what the
    single-device model returns. A call with input shapes (or a train/eval
    mode) that were not seen before is captured and lowered once more with
    the same layouts at rest; it takes seconds, once.

    Attributes
    ----------
    plan : Plan
        The plan that runs.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, call: Call,
                 program: Program, layout: ProgramLayout, *,
                 loss_fn: Callable[..., Any] | None, replan: Planner,
                 compile: bool = False) -> None:
        super().__init__()
        self._mesh = mesh
        self._device = mesh_device(mesh)
        self._loss_fn = loss_fn
        self._replan = replan
        self._compile = compile
        self._agreement = Agreement(mesh)
        shard_state(self, model, mesh, layout)
        object.__setattr__(self, "_skeleton", _skeleton(model))
        self._compiled: dict[Any, _Compiled] = {}
        self._first = self._bind(program, layout)
        self._compiled["global", *self._signature(call)] = self._first
        self.train(model.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            skeleton = self.__dict__.get("_skeleton")
            value = getattr(skeleton, name, None)
            if skeleton is None or isinstance(
                    value, (nn.Module, torch.Tensor)) or not hasattr(
                        skeleton, name):
                raise
            return value

    @property
    def mesh(self) -> DeviceMesh:
        """The device mesh that the module runs on."""
        return self._mesh

    @property
    def device(self) -> torch.device:
        """The device this rank computes on."""
        return self._device

    @property
    def program(self) -> Program:
        """The captured program of the example inputs."""
        return self._first.program

    @property
    def layout(self) -> ProgramLayout:
        """The layouts of the example inputs' program."""
        return self._first.layout

    def forward(self, *args: Any, inputs: str = "global",
                **kwargs: Any) -> Any:
        """Run the model on a batch.

        Parameters
        ----------
        *args, **kwargs
            What the single-device model takes (then the loss function's
            targets).
        inputs : {"global", "local"}
            Whether each rank passes the whole batch, or only its shard of
            it as the plan lays the inputs out.

        Raises
        ------
        TypeError
            When the arguments do not fit the model.
        ValueError
            When ranks pass inputs of different shapes, or for an unknown
            `inputs`.
        """
        if inputs not in ("global", "local"):
            raise ValueError(f'inputs must be "global" or "local", '
                             f"got {inputs!r}")
        call = bind_inputs(self._skeleton, args, kwargs, self._loss_fn)
        tensors = call.tensors
        if inputs == "local":
            call = self._whole(call)
        signature = (inputs, *self._signature(call))
        seed = self._agreement.check(signature,
                                     draws=self._first.executor.draws)
        compiled = self._compiled.get(signature)
        if compiled is None:
            compiled = self._capture(call, local_inputs=inputs == "local")
            self._compiled[signature] = compiled
        return _run(self, compiled, tensors, seed)

    def _whole(self, call: Call) -> Call:
        """The global shapes of a call whose tensors are local shards."""
        layout = self._first.layout
        leaves = []
        for position, leaf in enumerate(call.leaves):
            name = f"input:{position}"
            if isinstance(leaf, torch.Tensor) and name in layout.at_rest:
                shape = list(leaf.shape)
                for placement, size in zip(layout.at_rest[name],
                                           layout.mesh.sizes, strict=True):
                    if placement.is_shard:
                        shape[placement.dim] *= size
                leaf = torch.empty(shape, dtype=leaf.dtype, device="meta",
                                   requires_grad=leaf.requires_grad)
            leaves.append(leaf)
        return dataclasses.replace(call, leaves=tuple(leaves))

    def _signature(self, call: Call) -> tuple[Any, ...]:
        leaves = tuple(
            (tuple(x.shape), str(x.dtype), x.requires_grad) if isinstance(
                x, torch.Tensor) else ("constant", x) for x in call.leaves)
        device = self._mesh.device_type
        autocast = (str(torch.get_autocast_dtype(device))
                    if torch.is_autocast_enabled(device) else None)
        return (call.paths, leaves, self._skeleton.training, autocast)

    def train(self, mode: bool = True) -> ParallelModule:
        """Set training mode, as ``nn.Module.train``."""
        super().train(mode)
        skeleton = self.__dict__.get("_skeleton")
        if skeleton is not None:
            skeleton.train(mode)
        return self

    def _capture(self, call: Call, *, local_inputs: bool) -> _Compiled:
        fixed = {n: p.requires_grad for n, p in self.named_parameters()}
        for name, parameter in self._skeleton.named_parameters():
            parameter.requires_grad_(fixed[name])
        program = capture_call(self._skeleton, call, loss_fn=self._loss_fn)
        return self._bind(program, self._replan(program),
                          local_inputs=local_inputs)

    def _bind(self, program: Program, layout: ProgramLayout, *,
              local_inputs: bool = False) -> _Compiled:
        rank = mesh_rank(self._mesh)
        lowered = lower(program, layout, rank, device=self._device,
                        local_inputs=local_inputs)
        names = layout.mesh.names
        groups = [self._mesh.get_group(n) for n in names]
        axes = [AxisRef(name=g.group_name, size=size, coordinate=place)
                for g, size, place in zip(
                    groups, layout.mesh.sizes,
                    layout.mesh.coordinate(rank), strict=True)]
        constants = {n: t.to(self._device)
                     for n, t in program.constants.items()}
        return _Compiled(
            program=program, layout=layout, constants=constants,
            executor=Executor(lowered, axes, names, groups,
                              compile=self._compile))


class _Call(torch.autograd.Function):
    """One call of the model as one node of the user's autograd graph."""

    @staticmethod
    def forward(ctx: Any, module: ParallelModule, compiled: _Compiled,
                names: tuple[str, ...], seed: int, keep: bool,
                *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        local = {n: t.to_local() if isinstance(t, DTensor) else t
                 for n, t in zip(names, tensors, strict=True)}
        tape = Tape(seed=seed) if keep else None
        outputs, mutations = compiled.executor.forward(
            {**compiled.constants, **local}, seed, tape=tape)
        for name, value in mutations.items():
            module.get_buffer(name.partition(":")[2]).copy_(value)
        ctx.tape, ctx.compiled, ctx.names = tape, compiled, names
        ctx.tensors = tensors
        ctx.set_materialize_grads(False)
        returned = tuple(_fresh(x, tensors) for x in outputs
                         if x is not None)
        ctx.mark_non_differentiable(
            *(x for x in returned if not x.is_floating_point()))
        return returned

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        compiled: _Compiled = ctx.compiled
        program = compiled.program
        if ctx.tape is None or ctx.tape.used:
            raise RuntimeError(
                "the backward pass of this call has run already: a parallel "
                "module frees what it saved; call the model again")
        supply = iter(grads)
        tangents = [next(supply) if name is not None else None
                    for name in program.outputs]
        _refuse_foreign(program, tangents)
        wanted = [n for n, t in zip(ctx.names, ctx.tensors, strict=True)
                  if t.requires_grad]
        local = compiled.executor.backward(ctx.tape, tangents, wanted)
        found = [_like(local.get(n), t) if t.requires_grad else None
                 for n, t in zip(ctx.names, ctx.tensors, strict=True)]
        return (None, None, None, None, None, *found)


def _fresh(value: torch.Tensor,
           inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Outputs must not be inputs themselves: autograd would tie them."""
    return value.clone() if any(value is x for x in inputs) else value


def _refuse_foreign(program: Program,
                    tangents: list[torch.Tensor | None]) -> None:
    if program.loss is None:
        return
    foreign = [i for i, t in enumerate(tangents)
               if t is not None and i != program.loss]
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


def _run(module: ParallelModule, compiled: _Compiled,
         tensors: tuple[torch.Tensor, ...], seed: int) -> Any:
    program = compiled.program
    names = [n for n in program.specs
             if n.startswith(("param:", "buffer:"))]
    state = [_state(module, n) for n in names]
    positions = [i for i, leaf in enumerate(program.leaves)
                 if leaf.spec is not None]
    names += [f"input:{i}" for i in positions]
    device = module.device
    state += [t.to(device) for t in tensors]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in state)
    flat = iter(_Call.apply(module, compiled, tuple(names), seed, keep,
                            *state))
    leaves = [next(flat) if name is not None else constant
              for name, constant in zip(program.outputs,
                                        program.output_constants,
                                        strict=True)]
    return pytree.tree_unflatten(leaves, program.output_tree)


def _state(module: ParallelModule, name: str) -> torch.Tensor:
    kind, _, target = name.partition(":")
    return (module.get_parameter(target) if kind == "param"
            else module.get_buffer(target))


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model's structure whose tensors are on meta."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(
            meta, requires_grad=tensor.requires_grad) if isinstance(
                tensor, nn.Parameter) else meta
    return copy.deepcopy(model, memo)
