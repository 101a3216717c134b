"""What a rank of a pipeline holds of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.ir.layout import Layout
from planner.ir.pipeline import PipelineSpec, inner_mesh
from scaletorch.mesh import spec_of
from scaletorch.pipeline_share import Held, PipelineShare, mark_pipeline
from scaletorch.runtime.compiled import Compiled
from scaletorch.runtime.pipeline.program import PipelineProgram
from scaletorch.stage_gradients import follow_gradients

__all__ = ["join_stages", "names_elsewhere", "rest_layouts", "stage_mesh"]


def stage_mesh(mesh: DeviceMesh, pipeline: PipelineSpec | None) -> DeviceMesh:
    """The mesh over which a rank's parameters lie."""
    if pipeline is None:
        return mesh
    return mesh[inner_mesh(spec_of(mesh), pipeline.axis).names]


def rest_layouts(first: Compiled | PipelineProgram) -> Mapping[str, Layout]:
    """Layouts at rest over that mesh."""
    at_rest = first.layout.at_rest
    if isinstance(first, Compiled):
        return at_rest
    return {n: layout[:-1] for n, layout in at_rest.items()}


def names_elsewhere(first: Compiled | PipelineProgram,
                    structure: nn.Module) -> frozenset[str]:
    """Names of parameters and buffers that only other stages read.

    What no stage reads is on all ranks, so that checkpoints have it.
    """
    if isinstance(first, Compiled):
        return frozenset()
    own = {n.partition(":")[2] for n in first.state}
    read = {n.partition(":")[2] for n in first.read_anywhere}
    names = [
        n for n, _ in (*structure.named_parameters(remove_duplicate=False),
                       *structure.named_buffers(remove_duplicate=False))
    ]
    canonical = {n: first.program.aliases.get(n, n) for n in names}
    return frozenset(n for n in names
                     if canonical[n] in read and canonical[n] not in own)


def join_stages(first: PipelineProgram, state: Sequence[torch.Tensor]) -> None:
    """Make tied parameters equal, and note whose gradients count.

    Parameters
    ----------
    first : PipelineProgram
    state : sequence of Tensor
        As its `state` names them.
    """
    first.tie(state)
    own = {
        n: t
        for n, t in zip(first.state, state, strict=True)
        if isinstance(t, nn.Parameter)
    }
    held = Held(
        own,
        frozenset(s.dtype for s in first.program.specs.values()
                  if s.requires_grad))
    for name, parameter in own.items():
        mark_pipeline(
            parameter,
            PipelineShare(name=name,
                          group=first.place.pipeline,
                          counts=first.counts(name),
                          held=held))
        if parameter.requires_grad:
            follow_gradients(parameter)
