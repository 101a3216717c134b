"""A rank's place on the mesh of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from passes.collectives import AxisRef
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH, PipelineSpec
from scaletorch.mesh import mesh_device

__all__ = ["StageAxes"]


@dataclass(frozen=True, kw_only=True)
class StageAxes:
    """A rank's place on the mesh of a pipeline.

    Parameters
    ----------
    axes : tuple of AxisRef
        Of its stage, named by process groups, then the micro-batches.
    groups : tuple
        Their process groups; None for the micro-batches.
    names : tuple of str
        As the program calls the axes.
    pipeline : ProcessGroup
        Of the ranks with the same place in other stages.
    rank : int
        Position in that group.
    device : torch.device
    """

    axes: tuple[AxisRef, ...]
    groups: tuple[Any, ...]
    names: tuple[str, ...]
    pipeline: Any
    rank: int
    device: torch.device

    @staticmethod
    def of(mesh: DeviceMesh, pipeline: PipelineSpec,
           layout: ProgramLayout) -> StageAxes:
        """This process' place."""
        names = layout.mesh.names
        groups = [mesh.get_group(n) for n in names[:-1]]
        axes = [
            AxisRef(name=g.group_name,
                    size=g.size(),
                    coordinate=mesh.get_local_rank(n))
            for g, n in zip(groups, names[:-1], strict=True)
        ]
        assert names[-1] == MICROBATCH
        axes.append(
            AxisRef(name=MICROBATCH,
                    size=pipeline.microbatches,
                    coordinate=0,
                    sequential=True))
        return StageAxes(axes=tuple(axes),
                         groups=(*groups, None),
                         names=names,
                         pipeline=mesh.get_group(pipeline.axis),
                         rank=mesh.get_local_rank(pipeline.axis),
                         device=mesh_device(mesh))

    @property
    def place(self) -> int:
        """Row-major position among the ranks of the stage."""
        rank = 0
        for axis in self.axes[:-1]:
            rank = rank * axis.size + axis.coordinate
        return rank * self.axes[-1].size
