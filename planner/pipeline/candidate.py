"""Pipelines as candidates beside all other plans."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from planner.candidate import Candidate
from planner.choices import free_policies, recipe_policies
from planner.cluster.axis import AxisInfo, step_link
from planner.cluster.spec import DeviceKind
from planner.cost.plan_price import PlanPrice
from planner.cost.price import price
from planner.cost.timeline import Streams
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec, inner_mesh
from planner.ir.program import Program
from planner.pipeline.build import Pipelined, pipeline_layout, pipelined
from planner.pipeline.devices import rank_devices, stage_devices
from planner.pipeline.early_values import Prelude
from planner.pipeline.own_schedule import with_own_schedule
from planner.pipeline.price import PipelinePrice, pipeline_price, replicas
from planner.pipeline.stage_cost import StageCost, stage_costs
from planner.schedule.checked import checked_graph
from planner.search.layouts import LayoutSolution
from planner.search.policy import Policy

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["pipeline_candidate", "pipeline_candidates", "priced_pipeline"]

_SCHEDULES = (("1f1b", 1), ("zbh1", 1), ("interleaved1f1b", 2), ("zbv", 2))
"""Named schedules that a search tries, with their chunks."""

_MOST_PARTS = 4
"""How many numbers of micro-batches a search tries."""


def pipeline_candidate(planning: Planning,
                       pipeline: PipelineSpec,
                       policies: Sequence[Policy],
                       mesh: MeshSpec,
                       *,
                       recompute: Collection[str] = (),
                       bound_s: float | None = None) -> Candidate:
    """One pipeline, laid out and priced.

    Parameters
    ----------
    planning : Planning
    pipeline : PipelineSpec
    policies : sequence of Policy
        One for each axis of a stage.
    mesh : MeshSpec
        The whole mesh.
    recompute : collection of str
        Block classes that run again in the backward.
    bound_s : float, optional
        What no plan beats, where that is known.

    Raises
    ------
    LayoutError
        When the program can't be cut so.
    ScheduleError
        When the schedule is not for these numbers.
    """
    found = pipeline_layout(planning, pipeline, tuple(policies), mesh)
    layout = dataclasses.replace(found.layout, recompute=frozenset(recompute))
    return priced_pipeline(planning,
                           found.program,
                           layout,
                           found.pipeline,
                           policies,
                           mesh,
                           bound_s=bound_s)


def priced_pipeline(planning: Planning,
                    program: Program,
                    layout: ProgramLayout,
                    pipeline: PipelineSpec,
                    policies: Sequence[Policy],
                    mesh: MeshSpec,
                    *,
                    bound_s: float | None = None) -> Candidate:
    """The price of a pipeline whose layouts are given.

    Each stage is priced on the devices it is on, and each rank keeps to the
    memory of its own.

    Parameters
    ----------
    planning : Planning
    program : Program
        With the counts of its losses split off.
    layout : ProgramLayout
        Over a stage's axes and the micro-batches.
    pipeline : PipelineSpec
        With its cuts; the schedule ``auto`` becomes the text of one for
        these stages.
    policies : sequence of Policy
    mesh : MeshSpec
    bound_s : float, optional
        What no plan beats; that of all layouts on the mesh if left out.
    """
    own = planning.of_program(program)
    parts = pipelined(program, layout, pipeline)
    cost = own.tables(layout.mesh, mesh).cost
    ranks = rank_devices(planning.cluster, pipeline, mesh)

    def stages(devices: Sequence[DeviceKind]) -> tuple[StageCost, ...]:
        return stage_costs(parts, [cost.on(d) for d in devices],
                           optimizer=planning.optimizer)

    link = step_link(planning.cluster, mesh.sizes, mesh.index(pipeline.axis))
    costs = stages(stage_devices(pipeline, ranks))
    if pipeline.schedule == "auto":
        pipeline = with_own_schedule(pipeline,
                                     parts,
                                     costs,
                                     link,
                                     limits_bytes=list(
                                         map(planning.limits.on, ranks)),
                                     action_s=Streams.of(cost.device).action_s)
        if len(set(ranks)) > 1:  # stages may lie on other ranks than thought
            costs = stages(stage_devices(pipeline, ranks))
    if bound_s is None:
        bound_s = _bound_s(own, mesh, pipeline)
    call_s = (cost.device.coefficient("call_s", 0.0) +
              _prelude_s(own, parts.prelude, mesh, cost.device))
    step = _scheduled(pipeline, mesh, parts, costs, link, cost.device, call_s)
    work = price(program,
                 layout,
                 cost,
                 cost.device,
                 calls=own.facts.known_calls)
    if len(set(ranks)) > 1:
        work = _as_on(work, costs, stages([cost.device] * len(costs)))
    work = _shared(work, mesh.size(pipeline.axis))
    fullest = planning.limits.fullest(step.memory, ranks)
    return planning.noted(
        Candidate(policies=tuple(policies),
                  solution=LayoutSolution(layout=layout,
                                          value_s=step.step_s,
                                          solves=0,
                                          seconds=0.0),
                  price=dataclasses.replace(work, step=step.overlap),
                  memory=step.memory[fullest],
                  bound_s=bound_s,
                  pipeline=pipeline,
                  whole_mesh=mesh,
                  step=step))


def _bound_s(planning: Planning, mesh: MeshSpec,
             pipeline: PipelineSpec) -> float:
    """What no layouts of a mesh's stages beat; nothing is known of stages
    on devices of several kinds."""
    if planning.cluster.is_mixed:
        return 0.0
    return (planning.bound_s(inner_mesh(mesh, pipeline.axis)) /
            mesh.size(pipeline.axis))


def _scheduled(pipeline: PipelineSpec, mesh: MeshSpec, parts: Pipelined,
               costs: Sequence[StageCost], link: AxisInfo, device: DeviceKind,
               call_s: float) -> PipelinePrice:
    graph = checked_graph(pipeline.schedule,
                          ranks=mesh.size(pipeline.axis),
                          microbatches=pipeline.microbatches,
                          chunks=pipeline.chunks,
                          stages=len(parts.stages),
                          edges=parts.edges)
    return pipeline_price(parts,
                          costs,
                          graph,
                          link,
                          call_s=call_s,
                          host_s=device.coefficient("message_s", 0.0),
                          streams=Streams.of(device))


def _prelude_s(planning: Planning, prelude: Prelude, mesh: MeshSpec,
               device: DeviceKind) -> float:
    """What every rank computes before the first micro-batch."""
    program, layout = prelude.program, prelude.layout
    if program is None or layout is None:
        return 0.0
    cost = planning.tables(layout.mesh, mesh).cost.on(device)
    found = price(program, layout, cost, device)
    return found.forward_s + found.local_s + found.communication_s


def _as_on(work: PlanPrice, own: Sequence[StageCost],
           weakest: Sequence[StageCost]) -> PlanPrice:
    """The work on the weakest devices, as if on those of each stage."""
    forward = (sum(c.forward_s
                   for c in own) / max(1e-30, sum(c.forward_s
                                                  for c in weakest)))
    backward = (sum(c.input_s + c.weight_s for c in own) /
                max(1e-30, sum(c.input_s + c.weight_s for c in weakest)))
    return dataclasses.replace(work,
                               forward_s=work.forward_s * forward,
                               backward_s=work.backward_s * backward,
                               recompute_s=work.recompute_s * backward,
                               local_s=work.local_s * backward)


def _shared(work: PlanPrice, ranks: int) -> PlanPrice:
    """The work of a step, shared evenly by the ranks of the pipeline."""
    return dataclasses.replace(
        work,
        forward_s=work.forward_s / ranks,
        backward_s=work.backward_s / ranks,
        recompute_s=work.recompute_s / ranks,
        local_s=work.local_s / ranks,
        collectives=tuple(
            dataclasses.replace(
                c, time_s=c.time_s / ranks, count=c.count / ranks)
            for c in work.collectives),
        repeated=tuple(
            dataclasses.replace(
                r, time_s=r.time_s / ranks, excess_s=r.excess_s / ranks)
            for r in work.repeated))


def pipeline_candidates(planning: Planning,
                        mesh: MeshSpec) -> Iterator[Candidate]:
    """The pipelines that a search tries on a mesh with an axis ``pp``.

    Products of recipes for the other axes and the free search, a few
    numbers of micro-batches, and the named schedules; what the program or
    the schedule does not allow is passed over.

    Raises
    ------
    InfeasiblePlan
        When that is all of them, with the first reason, or where the batch
        does not divide.
    """
    errors: list[ValueError] = []
    found = None
    inner = inner_mesh(mesh, "pp")
    policies = [
        *recipe_policies(inner, planning.constraints),
        free_policies(inner)
    ]
    counts = _part_counts(planning.facts.batch_rows, mesh)
    if not counts:
        raise InfeasiblePlan(_uncut(planning.facts.batch_rows, mesh))
    for chosen, count in itertools.product(policies, counts):
        for name, chunks in _SCHEDULES:
            spec = PipelineSpec(schedule=name,
                                microbatches=count,
                                chunks=chunks)
            try:
                found = _candidate(planning, spec, chosen, mesh)
            except (LayoutError, ScheduleError) as error:
                errors.append(error)
            else:
                yield found
    if found is None and errors:
        raise InfeasiblePlan(f"no pipeline runs on {mesh}: {errors[0]}")


def _candidate(planning: Planning, pipeline: PipelineSpec,
               policies: Sequence[Policy], mesh: MeshSpec) -> Candidate:
    """With micro-batches that stand for the batch where they must and may."""
    allowed = planning.constraints.allows_batch_statistics()
    if allowed:
        with contextlib.suppress(LayoutError, ScheduleError):
            return pipeline_candidate(planning, pipeline, policies, mesh)
        pipeline = dataclasses.replace(pipeline, batch_statistics="microbatch")
    return pipeline_candidate(planning, pipeline, policies, mesh)


def _uncut(rows: int, mesh: MeshSpec) -> str:
    stages, data = mesh.size("pp"), replicas(mesh)
    ranks = f" for each of {data} ranks of dp" if data > 1 else ""
    return (f"no pipeline runs on {mesh}: a batch of {rows} rows can't be cut "
            f"into {stages} micro-batches{ranks}, one for each stage; take a "
            f"multiple of {stages * data} rows, or a smaller mesh")


def _part_counts(rows: int, mesh: MeshSpec) -> list[int]:
    """Numbers of micro-batches: from the stages on, doubled."""
    data = replicas(mesh)
    counts: list[int] = []
    count = mesh.size("pp")
    while count * data <= rows and len(counts) < _MOST_PARTS:
        if rows % (count * data) == 0:
            counts.append(count)
        count *= 2
    return counts
