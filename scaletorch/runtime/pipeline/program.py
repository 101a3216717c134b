"""A captured call signature as a pipeline, ready to run on this rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import PipelineSpec
from planner.ir.program import Program, value_kind
from planner.ir.verify import held_values
from planner.pipeline.build import Pipelined
from planner.pipeline.stages import Stage
from planner.rules.registry import TensorSpec
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.lost import Watched, naming_the_lost
from scaletorch.runtime.pipeline.axes import StageAxes
from scaletorch.runtime.pipeline.engine import Engine
from scaletorch.runtime.pipeline.results import (cut, joined, loss_tangent,
                                                 part_of, whole)
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.pipeline.ties import Ties
from scaletorch.runtime.pipeline.written import Written

__all__ = ["Parts", "PipelineProgram", "values_of_stages"]

_RETURNING = "returning the model's outputs"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The engines of a rank, and what they are made of."""

    whole: Pipelined
    executors: Mapping[int, StageExecutor]
    prelude: Executor | None
    train: Engine | None
    infer: Engine
    rehearsal: PipelineProgram | None = None


class PipelineProgram:
    """A whole program as one rank of a pipeline runs it.

    Parameters
    ----------
    program : Program
        As captured, for the structure of its outputs.
    layout : ProgramLayout
    pipeline : PipelineSpec
    place : StageAxes
    parts : Parts
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
                 pipeline: PipelineSpec, place: StageAxes, parts: Parts, *,
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
        self.reads = {
            n
            for s in self._stages.values()
            for n in s.program.specs
        }
        prelude = parts.whole.prelude.program
        if prelude is not None:
            self.reads |= set(prelude.specs)
        if parts.rehearsal is not None:
            self.reads |= parts.rehearsal.reads
        self._ties = Ties(parts.whole.stages, parts.infer.owner, place,
                          parts.infer.transport)
        self._written = Written(parts.whole, parts.infer.owner,
                                parts.executors, place, parts.infer.transport)
        own = self.reads | set(self._ties.held)
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
        self._held = values_of_stages(parts.whole.stages)
        self._watched = Watched(_RETURNING, *place.groups)

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
    def read_anywhere(self) -> frozenset[str]:
        """Global names of what any rank computes with."""
        return frozenset(self._written.readers)

    @property
    def stage_params(self) -> tuple[tuple[str, ...], ...]:
        """Global names of the parameters that each stage reads."""
        return tuple(s.params for s in self._parts.whole.stages)

    @property
    def executors(self) -> Mapping[int, StageExecutor]:
        """Of this rank's stages, by number."""
        return self._parts.executors

    @property
    def stages(self) -> Mapping[int, Stage]:
        """This rank's stages, by number."""
        return self._stages

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
        early = {
            **self._early(state, shares, seed),
            **self._rehearsed(local, seed)
        }
        for executor in self._parts.executors.values():
            executor.begin(state)
        engine = self._parts.train if keep else self._parts.infer
        assert engine is not None
        names = {
            name
            for i in returned if (name := self.program.outputs[i]) is not None
        }
        outputs, parts = engine.run(
            lambda stage, part: self._feed(stage, part, shares, early),
            seed,
            keep=keep,
            tangents=self._tangents(scale),
            returned=names)
        mutations = self._written.values(parts, local)
        grads: dict[str, torch.Tensor] = {}
        for number in sorted(self._parts.executors):
            executor = self._parts.executors[number]
            if not keep:
                executor.release()
                continue
            for name, grad in executor.finish().items():
                grads[name] = grads[name] + grad if name in grads else grad
        # First, since ranks may have to wait for each other's gradients.
        found = self._returned(outputs, returned)
        if keep:
            self._ties.sum_over_holders(grads, local)
        return found, mutations, grads

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

    def _rehearsed(self, local: Mapping[str, torch.Tensor],
                   seed: int) -> dict[str, torch.Tensor]:
        """What a forward pass of the whole batch finds, by source."""
        rehearsal = self._parts.rehearsal
        if rehearsal is None:
            return {}
        names = rehearsal.program.outputs
        outputs, _, _ = rehearsal.run(local,
                                      seed,
                                      keep=False,
                                      returned=range(len(names)),
                                      scale=1.0)
        rest = {
            v.source: self._parts.whole.layout.at_rest[n]
            for n, v in self._parts.whole.prelude.values.items()
        }
        return {
            name: cut(outputs[i], rest[name][:-1], self.place.axes[:-1])
            for i, name in enumerate(names) if name is not None
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
        name = self.program.loss_name
        if name is None:
            return {}
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
                with self._watched:
                    value = whole(value, layout[:-1],
                                  self.place.axes[:-1]).contiguous()
            else:
                value = torch.empty(spec.shape,
                                    dtype=spec.dtype,
                                    device=self.place.device)
            if len(ranks) > 1:
                with naming_the_lost(_RETURNING, ranks):
                    dist.broadcast(value,
                                   ranks[self.owner[i]],
                                   group=self.place.pipeline)
            found[i] = value
        return found


def values_of_stages(
        stages: Sequence[Stage]) -> dict[str, tuple[TensorSpec, Layout]]:
    """Every output and wire with how it is held."""
    found: dict[str, tuple[TensorSpec, Layout]] = {}
    for stage in stages:
        found |= held_values(stage.program, stage.layout)
    return found
