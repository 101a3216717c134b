"""Lower the stages of a rank and bind them to its process groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch.distributed.device_mesh import DeviceMesh

from passes.lower import lower
from passes.steps import RankProgram
from planner.ir.layout import local_shape
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import PipelineSpec
from planner.ir.program import Program
from planner.pipeline.build import Pipelined, pipelined
from planner.pipeline.stages import Stage
from planner.schedule.actions import Schedule
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.lost import limit_waits
from scaletorch.runtime.pipeline.axes import StageAxes
from scaletorch.runtime.pipeline.engine import Engine, Wire
from scaletorch.runtime.pipeline.program import (Parts, PipelineProgram,
                                                 values_of_stages)
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.pipeline.transport import Transport, transport_of

__all__ = ["pipeline_program"]


def pipeline_program(program: Program, layout: ProgramLayout,
                     pipeline: PipelineSpec, mesh: DeviceMesh, *,
                     compile: bool, local_inputs: bool) -> PipelineProgram:
    """Lower a program's stages for this rank and bind them.

    Parameters
    ----------
    program : Program
        With the counts of its losses split off.
    layout : ProgramLayout
        Over a stage's axes and the micro-batches.
    pipeline : PipelineSpec
    mesh : DeviceMesh
        Of the pipeline's and the stages' axes.
    compile, local_inputs : bool

    Raises
    ------
    LayoutError
        When the program can't be cut as the plan says.
    ScheduleError
        When the schedule does not fit the stages.
    """
    place = StageAxes.of(mesh, pipeline, layout)
    limit_waits((*place.groups, place.pipeline), place.device)
    found = pipelined(program, layout, pipeline)
    ranks = place.pipeline.size()
    train, infer = _schedules(pipeline, ranks, found)
    wires = _wires(found, layout)
    executors = _executors(found,
                           train,
                           place,
                           program.loss_name,
                           compile=compile,
                           halves=any(a.kind == "I" for a in train.actions))
    transport = transport_of(place.pipeline,
                             _rank_names(train.stage_rank, ranks))

    def engine(schedule: Schedule) -> Engine:
        return Engine(schedule, place.rank, found.stages, executors, wires,
                      found.edges, transport, place.device,
                      _carried(program, pipeline))

    rehearsal = None if found.rehearsal is None else _rehearsal(
        found.rehearsal,
        infer,
        pipeline,
        place,
        transport,
        compile=compile,
        local_inputs=local_inputs)
    return PipelineProgram(program,
                           layout,
                           pipeline,
                           place,
                           Parts(whole=found,
                                 executors=executors,
                                 prelude=_prelude(found, place, compile),
                                 train=engine(train),
                                 infer=engine(infer),
                                 rehearsal=rehearsal),
                           local_inputs=local_inputs)


def _rehearsal(found: Pipelined, schedule: Schedule, pipeline: PipelineSpec,
               place: StageAxes, transport: Transport, *, compile: bool,
               local_inputs: bool) -> PipelineProgram:
    """The forward pass that finds values of the whole batch; its stages
    may end before the last one."""
    schedule = Schedule(
        tuple(
            tuple(a for a in row if a.stage < len(found.stages))
            for row in schedule.ranks))
    check_schedule(schedule, edges=found.edges, inference=True)
    executors = _executors(found,
                           schedule,
                           place,
                           found.program.loss_name,
                           compile=compile)
    engine = Engine(schedule, place.rank, found.stages, executors,
                    _wires(found, found.layout), found.edges, transport,
                    place.device, frozenset())
    return PipelineProgram(found.program,
                           found.layout,
                           pipeline,
                           place,
                           Parts(whole=found,
                                 executors=executors,
                                 prelude=_prelude(found, place, compile),
                                 train=None,
                                 infer=engine),
                           local_inputs=local_inputs)


def _executors(found: Pipelined,
               schedule: Schedule,
               place: StageAxes,
               loss: str | None,
               *,
               compile: bool,
               halves: bool = False) -> dict[int, StageExecutor]:
    """Of the stages that a schedule gives this rank, by their numbers."""
    return {
        number:
        StageExecutor(_lowered(stage, loss, place),
                      place.axes,
                      place.names,
                      place.groups,
                      compile=compile,
                      halves=halves)
        for number, stage in enumerate(found.stages)
        if schedule.stage_rank[number] == place.rank
    }


def _rank_names(stage_rank: Sequence[int], ranks: int) -> list[str]:
    """What each rank of a pipeline has, for messages."""
    stages = [[str(s) for s, r in enumerate(stage_rank) if r == rank]
              for rank in range(ranks)]
    return [
        f"stage{'s' if len(own) > 1 else ''} {' and '.join(own)} of the "
        "pipeline" for own in stages
    ]


def _carried(program: Program, pipeline: PipelineSpec) -> frozenset[str]:
    """Statistics of batch norms, which each micro-batch takes part in."""
    if pipeline.is_exact:
        return frozenset()
    norms = {
        n.rpartition(".")[0]
        for n in program.mutations if n.endswith(".running_mean")
    }
    return frozenset(n for n in program.mutations
                     if n.rpartition(".")[0] in norms)


def _schedules(pipeline: PipelineSpec, ranks: int,
               found: Pipelined) -> tuple[Schedule, Schedule]:
    """The training schedule, and its forward actions alone."""
    train = make_schedule(pipeline.schedule,
                          ranks=ranks,
                          microbatches=pipeline.microbatches,
                          chunks=pipeline.chunks)
    check_schedule(train,
                   edges=found.edges,
                   stages=len(found.stages),
                   microbatches=pipeline.microbatches)
    infer = Schedule(
        tuple(tuple(a for a in row if a.kind == "F") for row in train.ranks))
    check_schedule(infer, edges=found.edges, inference=True)
    return train, infer


def _lowered(stage: Stage, loss: str | None, place: StageAxes) -> RankProgram:
    outputs = stage.program.outputs
    return lower(stage.program,
                 stage.layout,
                 place.place,
                 device=place.device,
                 local_inputs=True,
                 is_stage=True,
                 differentiated=[
                     i for i, n in enumerate(outputs)
                     if n in stage.gives or n == loss
                 ])


def _prelude(found: Pipelined, place: StageAxes,
             compile: bool) -> Executor | None:
    program, layout = found.prelude.program, found.prelude.layout
    if program is None or layout is None:
        return None
    lowered = lower(dataclasses.replace(program, training=False),
                    layout,
                    place.place // place.axes[-1].size,
                    device=place.device,
                    local_inputs=True,
                    sharded_outputs=True)
    return Executor(lowered,
                    place.axes[:-1],
                    place.names[:-1],
                    place.groups[:-1],
                    compile=compile)


def _wires(found: Pipelined, layout: ProgramLayout) -> dict[str, Wire]:
    held = values_of_stages(found.stages)
    names = {n for stage in found.stages for n in stage.takes}
    return {
        n:
        Wire(name=n,
             shape=local_shape(held[n][0].shape, held[n][1],
                               layout.mesh.sizes),
             dtype=held[n][0].dtype,
             has_gradient=held[n][0].requires_grad)
        for n in names
    }
