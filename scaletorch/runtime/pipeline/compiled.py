"""A captured call signature as a pipeline, ready to run on this rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from passes.collectives import AxisRef
from passes.kernels import KernelCache
from passes.lower import lower
from planner.ir.layout import Layout, local_shape
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH, PipelineSpec
from planner.ir.program import Program, value_kind
from planner.ir.values import value_of
from planner.ir.verify import hub_of
from planner.pipeline.build import Pipelined, pipelined
from planner.pipeline.stages import Stage
from planner.rules.registry import TensorSpec
from planner.schedule.actions import Schedule
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule
from scaletorch.mesh import mesh_device
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.lost import limit_waits, naming_the_lost
from scaletorch.runtime.pipeline.engine import Engine, Wire
from scaletorch.runtime.pipeline.results import (cut, joined, loss_tangent,
                                                 part_of, whole)
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.pipeline.transport import (Pending, Transport,
                                                   transport_of)

__all__ = ["PipelineProgram", "StageAxes", "pipeline_program"]


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


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The engines of a rank, and what they are made of."""

    whole: Pipelined
    executors: Mapping[int, StageExecutor]
    prelude: Executor | None
    train: Engine | None
    infer: Engine


class PipelineProgram:
    """A whole program as one rank of a pipeline runs it.

    Parameters
    ----------
    program : Program
        As captured, for the structure of its outputs.
    layout : ProgramLayout
    pipeline : PipelineSpec
    place : StageAxes
    parts : _Parts
    local_inputs : bool
        Whether inputs arrive as this rank's share of the batch.

    Attributes
    ----------
    state, inputs : tuple of str
        Global names of what :meth:`run` takes.
    draws : bool
        Whether it draws random numbers.
    last_scale : float
        The gradient that the loss was given last.
    """

    def __init__(self, program: Program, layout: ProgramLayout,
                 pipeline: PipelineSpec, place: StageAxes, parts: _Parts, *,
                 local_inputs: bool) -> None:
        self.program = program
        self.layout = layout
        self.pipeline = pipeline
        self.place = place
        self.local_inputs = local_inputs
        self._parts = parts
        self._stages = {n: parts.whole.stages[n] for n in parts.executors}
        device = place.device
        self._constants = {
            n: t.to(device)
            for n, t in program.constants.items()
        }
        own = {n for s in self._stages.values() for n in s.program.specs}
        prelude = parts.whole.prelude.program
        if prelude is not None:
            own |= set(prelude.specs)
        self._ties = _Ties(parts.whole.stages, parts.infer.owner, place,
                           parts.infer.transport)
        own |= set(self._ties.held)
        self.state = tuple(
            n for n in program.specs
            if n in own and value_kind(n) in ("param", "buffer"))
        self.inputs = tuple(f"input:{i}"
                            for i, leaf in enumerate(program.leaves)
                            if leaf.spec is not None)
        self.last_scale = 1.0
        self.draws = any(e.draws for e in parts.executors.values())
        self.owner = {
            i: parts.infer.owner[number]
            for number, stage in enumerate(parts.whole.stages)
            for i in stage.outputs
        }
        self._held = _held(parts.whole.stages)

    def tie(self, state: Sequence[torch.Tensor]) -> None:
        """Give tied parameters the values of their first stage.

        Parameters
        ----------
        state : sequence of Tensor
            As `state` names them.
        """
        local = {
            n: t.to_local() if isinstance(t, DTensor) else t
            for n, t in zip(self.state, state, strict=True)
        }
        self._ties.spread(local)

    @property
    def stage_params(self) -> tuple[tuple[str, ...], ...]:
        """Global names of the parameters that each stage reads."""
        return tuple(s.params for s in self._parts.whole.stages)

    def counts(self, name: str) -> bool:
        """Whether a parameter is this rank's, among those that hold it."""
        return self._ties.is_first(name)

    def run(
        self, local: Mapping[str, torch.Tensor], seed: int, *, keep: bool,
        returned: Sequence[int], scale: float
    ) -> tuple[dict[int, torch.Tensor], dict[str, torch.Tensor], dict[
            str, torch.Tensor]]:
        """Run a step.

        Parameters
        ----------
        local : mapping of str to Tensor
            Parameters and buffers of this rank as they rest, and inputs.
        seed : int
        keep : bool
            Whether gradients are wanted.
        returned : sequence of int
            Output leaves that every rank gets.
        scale : float
            What the loss' gradient is.

        Returns
        -------
        outputs : dict of int to Tensor
            Whole, on every rank.
        mutations : dict of str to Tensor
            New buffer values of this rank.
        grads : dict of str to Tensor
            Of this rank's parameters as they rest, for a gradient of the
            loss of `scale`.
        """
        state = {**self._constants, **local}
        shares = self._shares(local)
        early = self._early(state, shares, seed)
        for executor in self._parts.executors.values():
            executor.begin(state)
        engine = self._parts.train if keep else self._parts.infer
        assert engine is not None
        names = {self.program.outputs[i] for i in returned}
        outputs, mutations = engine.run(
            lambda stage, part: self._feed(stage, part, shares, early),
            seed,
            keep=keep,
            tangents=self._tangents(scale),
            returned=names)  # type: ignore
        grads: dict[str, torch.Tensor] = {}
        for number in sorted(self._parts.executors):
            executor = self._parts.executors[number]
            if not keep:
                executor.release()
                continue
            for name, grad in executor.finish().items():
                grads[name] = grads[name] + grad if name in grads else grad
        if keep:
            self._ties.sum_over_holders(grads, local)
        return self._returned(outputs, returned), mutations, grads

    def _shares(self, local: Mapping[str,
                                     torch.Tensor]) -> dict[str, torch.Tensor]:
        """This rank's part of every input."""
        shares = {}
        for name in self.inputs:
            tensor = local[name]
            rest = self.layout.at_rest.get(name)
            if rest is not None and not self.local_inputs:
                tensor = cut(tensor, rest[:-1], self.place.axes[:-1])
            shares[name] = tensor
        return shares

    def _early(self, state: Mapping[str, torch.Tensor],
               shares: Mapping[str, torch.Tensor],
               seed: int) -> dict[str, torch.Tensor]:
        """What is known before the first micro-batch, by source."""
        executor = self._parts.prelude
        if executor is None:
            return {}
        values = {**state, **shares}
        given = {n: values[n] for n in executor.program.takes}
        outputs, _ = executor.forward(given, seed, tape=None)
        program = self._parts.whole.prelude.program
        assert program is not None
        return {
            n: t
            for n, t in zip(program.outputs, outputs, strict=True)
            if n is not None
        }

    def _feed(self, number: int, part: int, shares: Mapping[str, torch.Tensor],
              early: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A stage's inputs for one micro-batch."""
        stage = self._stages[number]
        count = self.pipeline.microbatches
        given = {}
        for name in stage.program.specs:
            if value_kind(name) == "input":
                rest = self.layout.at_rest[name][-1]
                given[name] = part_of(shares[name], rest, part, count)
            elif name in self._parts.whole.prelude.values:
                value = self._parts.whole.prelude.values[name]
                given[name] = part_of(early[value.source], value.placement,
                                      part, count)
        return given

    def _tangents(self, scale: float) -> dict[str, torch.Tensor]:
        loss = self.program.loss
        if loss is None:
            return {}
        name = self.program.outputs[loss]
        assert name is not None
        spec, layout = self._held[name]
        tangent = loss_tangent(layout,
                               self.place.axes,
                               dtype=spec.dtype,
                               device=self.place.device)
        return {name: (tangent * scale).expand(spec.shape)}

    def _returned(self, outputs: Mapping[str, Sequence[torch.Tensor]],
                  returned: Sequence[int]) -> dict[int, torch.Tensor]:
        """Outputs on every rank, from the stages that make them."""
        found = {}
        ranks = dist.get_process_group_ranks(self.place.pipeline)
        for i in returned:
            name = self.program.outputs[i]
            assert name is not None
            spec, layout = self._held[name]
            if name in outputs:
                value = joined(outputs[name], layout[-1])
                value = whole(value, layout[:-1],
                              self.place.axes[:-1]).contiguous()
            else:
                value = torch.empty(spec.shape,
                                    dtype=spec.dtype,
                                    device=self.place.device)
            if len(ranks) > 1:
                with naming_the_lost("returning the model's outputs", ranks):
                    dist.broadcast(value,
                                   ranks[self.owner[i]],
                                   group=self.place.pipeline)
            found[i] = value
        return found


def _held(stages: Sequence[Stage]) -> dict[str, tuple[TensorSpec, Layout]]:
    """Every output and wire with how it is held."""
    found: dict[str, tuple[TensorSpec, Layout]] = {}
    for stage in stages:
        for name in stage.program.specs:
            found[name] = (stage.program.specs[name],
                           stage.layout.at_rest[name])
        for block in stage.program.blocks:
            cls = stage.program.class_of(block)
            for node, name in zip(cls.results, block.results, strict=True):
                value = value_of(node)
                found[name] = (value.spec,
                               hub_of(stage.layout.classes[cls.name], value))
    return found


class _Ties:
    """Parameters that ranks of several stages hold.

    A rank whose stages read no parameter holds the smallest one of the
    model too, since optimizers want one.
    """

    def __init__(self, stages: Sequence[Stage], owner: Sequence[int],
                 place: StageAxes, transport: Transport) -> None:
        self.place = place
        self.transport = transport
        count = place.pipeline.size()
        specs = {n: s.program.specs[n] for s in stages for n in s.params}
        self.trained = {n for n, s in specs.items() if s.requires_grad}
        holders: dict[str, set[int]] = {}
        for number, stage in enumerate(stages):
            for name in stage.params:
                holders.setdefault(name, set()).add(owner[number])
        idle = set(range(count)) - set().union(*holders.values())
        if idle and holders:
            smallest = min(holders, key=lambda n: (prod(specs[n].shape), n))
            holders[smallest] |= idle
        self.held = {
            n: tuple(sorted(h))
            for n, h in sorted(holders.items())
            if len(h) > 1 and place.rank in h
        }

    @torch.no_grad()
    def spread(self, local: Mapping[str, torch.Tensor]) -> None:
        """The first holder's values on all of them."""
        for name, holders in self.held.items():
            value = local[name]
            if holders[0] == self.place.rank:
                sent = [self.transport.send(value, h) for h in holders[1:]]
                for pending in sent:
                    pending.wait()
            else:
                value.copy_(self._received(value, holders[0]).wait())

    def _received(self, like: torch.Tensor, peer: int) -> Pending:
        return self.transport.receive(like.shape, like.dtype, like.device,
                                      peer)

    def is_first(self, name: str) -> bool:
        """Whether this rank is the one that a parameter counts for."""
        return self.held.get(name, (self.place.rank, ))[0] == self.place.rank

    def sum_over_holders(self, grads: dict[str, torch.Tensor],
                         local: Mapping[str, torch.Tensor]) -> None:
        """Every holder gets the whole gradient."""
        for name, holders in self.held.items():
            if name not in self.trained:
                continue
            grad = grads.get(name)
            if grad is None:
                grad = torch.zeros_like(local[name])
            own = grad.detach().contiguous()
            others = [h for h in holders if h != self.place.rank]
            sent = [self.transport.send(own, h) for h in others]
            found = {h: self._received(own, h) for h in others}
            # In the same order on all, so that the sums are equal.
            grads[name] = reduce(torch.add, [
                own if h == self.place.rank else found[h].wait()
                for h in holders
            ])
            for pending in sent:
                pending.wait()


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
    halves = any(a.kind == "I" for a in train.actions)
    wires = _wires(found, layout)
    known = KernelCache()
    executors = {
        number:
        StageExecutor(_lowered(stage, found, place, program, known),
                      place.axes,
                      place.names,
                      place.groups,
                      compile=compile,
                      halves=halves)
        for number, stage in enumerate(found.stages)
        if train.stage_rank[number] == place.rank
    }
    transport = transport_of(place.pipeline,
                             _rank_names(train.stage_rank, ranks))

    def engine(schedule: Schedule) -> Engine:
        return Engine(schedule, place.rank, found.stages, executors, wires,
                      found.edges, transport, place.device,
                      _carried(program, pipeline))

    return PipelineProgram(program,
                           layout,
                           pipeline,
                           place,
                           _Parts(whole=found,
                                  executors=executors,
                                  prelude=_prelude(found, place, compile),
                                  train=engine(train),
                                  infer=engine(infer)),
                           local_inputs=local_inputs)


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


def _lowered(stage: Stage, found: Pipelined, place: StageAxes,
             program: Program, known: KernelCache) -> Any:
    loss = None if program.loss is None else program.outputs[program.loss]
    outputs = stage.program.outputs
    return lower(stage.program,
                 stage.layout,
                 place.place,
                 device=place.device,
                 local_inputs=True,
                 is_stage=True,
                 known=known,
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
    held = _held(found.stages)
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
