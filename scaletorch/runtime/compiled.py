"""One captured call signature, lowered and bound to process groups."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh

from passes.collectives import AxisRef
from passes.lower import RankProgram, lower
from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Program
from planner.ir.values import value_of
from planner.rules.registry import TensorSpec
from scaletorch.mesh import mesh_device, mesh_rank
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.lost import limit_waits

__all__ = ["Compiled", "TRACING", "compiled"]

TRACING = threading.RLock()
"""Held while tracing, which has state of the process; ranks may be threads."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program that is ready to run on this rank.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    mesh : DeviceMesh
    executor : Executor
    constants : mapping of str to Tensor
        On this rank's device, by global name.
    state : tuple of str
        Global names of the parameters and buffers it reads.
    inputs : tuple of str
        Global names of the input tensors, in the order of the call.
    differentiable : tuple of bool
        For each output that is a tensor, whether the single-device
        program gives it a gradient function.
    returned : tuple
        For each output that is a tensor, its global spec and layout where
        it is returned as a DTensor.
    """

    program: Program
    layout: ProgramLayout
    mesh: DeviceMesh
    executor: Executor
    constants: Mapping[str, torch.Tensor]
    state: tuple[str, ...]
    inputs: tuple[str, ...]
    differentiable: tuple[bool, ...]
    returned: tuple[tuple[TensorSpec, Layout] | None, ...]

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers."""
        return self.executor.draws


def compiled(program: Program, layout: ProgramLayout, mesh: DeviceMesh, *,
             compile: bool, inputs: str, outputs: str) -> Compiled:
    """Lower a program for this rank and bind it.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    mesh : DeviceMesh
    compile : bool
        Whether kernels run through ``torch.compile``.
    inputs : {"global", "local"}
    outputs : {"global", "sharded"}
        See :meth:`scaletorch.ParallelModule.forward`.

    Raises
    ------
    LayoutError
        When the layouts do not fit the program.
    """
    rank, device = mesh_rank(mesh), mesh_device(mesh)
    lowered = lower(program,
                    layout,
                    rank,
                    device=device,
                    local_inputs=inputs == "local",
                    sharded_outputs=outputs == "sharded")
    names = layout.mesh.names
    groups = [mesh.get_group(n) for n in names]
    limit_waits(groups, device)
    axes = [
        AxisRef(name=g.group_name, size=size, coordinate=place)
        for g, size, place in zip(groups,
                                  layout.mesh.sizes,
                                  layout.mesh.coordinate(rank),
                                  strict=True)
    ]
    return Compiled(program=program,
                    layout=layout,
                    mesh=mesh,
                    executor=Executor(lowered,
                                      axes,
                                      names,
                                      groups,
                                      compile=compile),
                    constants={
                        n: t.to(device)
                        for n, t in program.constants.items()
                    },
                    state=tuple(n for n in program.specs
                                if n.startswith(("param:", "buffer:"))),
                    inputs=tuple(f"input:{i}"
                                 for i, leaf in enumerate(program.leaves)
                                 if leaf.spec is not None),
                    differentiable=_differentiable(program),
                    returned=_returned(program, lowered, outputs))


def _differentiable(program: Program) -> tuple[bool, ...]:
    specs = _specs(program)
    return tuple(specs[n].requires_grad for n in program.outputs if n)


def _specs(program: Program) -> dict[str, TensorSpec]:
    """Global specs of everything that may be an output."""
    specs = dict(program.specs)
    for block in program.blocks:
        for node, name in zip(program.class_of(block).results,
                              block.results,
                              strict=True):
            specs[name] = value_of(node).spec
    return specs


def _returned(program: Program, lowered: RankProgram,
              outputs: str) -> tuple[tuple[TensorSpec, Layout] | None, ...]:
    specs = _specs(program)
    return tuple((specs[name], lowered.layouts[local]
                  ) if outputs == "sharded" and i != program.loss else None
                 for i, (name, local) in enumerate(
                     zip(program.outputs, lowered.outputs, strict=True))
                 if name is not None and local is not None)
