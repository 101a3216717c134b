"""What one stage of a pipeline takes: a program, priced like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from planner.cost.calls import KnownCall, KnownCalls, known_calls
from planner.cost.conversion import ConversionCost
from planner.cost.memory_estimate import (MemoryEstimate, Moments,
                                          estimate_memory, local_spec)
from planner.cost.plan_price import StageTime
from planner.cost.price import price, stage_times
from planner.cost.stage_time import sums_s
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, value_kind
from planner.ir.values import Value
from planner.pipeline.alike import shape_of
from planner.pipeline.build import Pipelined
from planner.pipeline.stages import Stage

__all__ = [
    "KnownByClass", "StageCost", "stage_cost", "stage_cost_again",
    "stage_costs", "stage_forward_s", "taken_bytes", "wire_bytes"
]

KnownByClass = dict[int, Sequence[KnownCall]]
"""The calls of block classes, by the class object's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One stage on one rank.

    Parameters
    ----------
    forward_s, input_s, weight_s : float
        Of one micro-batch; a whole backward is both of its parts.
    products_s, sums_s : float
        Of the gradients of weights: without sums, and adding them to those
        of the micro-batches before, which all but the first do.
    begin_s : float
        Bringing parameters into use, once a step, before all else.
    finish_s : float
        Reducing their gradients after all else, and handing them over.
    found : StageTime
        What these are made of, by collective.
    saved_bytes : int
        What the backward of one micro-batch keeps.
    memory : MemoryEstimate
        With one micro-batch in flight.
    """

    forward_s: float
    input_s: float
    weight_s: float
    products_s: float
    sums_s: float
    begin_s: float
    finish_s: float
    found: StageTime
    saved_bytes: int
    memory: MemoryEstimate

    @property
    def once_s(self) -> float:
        """What is done once a step."""
        return self.begin_s + self.finish_s


def stage_costs(found: Pipelined, costs: Sequence[ConversionCost], *,
                optimizer: str) -> tuple[StageCost, ...]:
    """Price every stage, those that are alike once.

    Parameters
    ----------
    found : Pipelined
    costs : sequence of ConversionCost
        Of the layouts' mesh, on the devices of each stage.
    optimizer : str
    """
    known: KnownByClass = {}
    whole = found.program
    alike: dict[Hashable, StageCost] = {}
    priced = []
    for stage, cost in zip(found.stages, costs, strict=True):
        key = shape_of(stage, whole.loss_name), id(cost)
        if key not in alike:
            alike[key] = stage_cost(stage, whole, cost, optimizer, known)
        priced.append(alike[key])
    return tuple(priced)


def stage_cost(stage: Stage, whole: Program, cost: ConversionCost,
               optimizer: str, known: KnownByClass) -> StageCost:
    """Price one stage.

    Parameters
    ----------
    stage : Stage
    whole : Program
        Of which it is a stage.
    cost : ConversionCost
    optimizer : str
    known : KnownByClass
        Filled with what is found.
    """
    program = _only_losing(stage.program, whole)
    calls = {n: _calls(program, n, known) for n in program.classes}
    found = _priced(program, stage.layout, cost, calls)
    return _stage_cost(stage, program, stage.layout, found, cost, optimizer,
                       calls, {})


def stage_cost_again(stage: Stage, whole: Program, cost: ConversionCost,
                     optimizer: str, known: KnownByClass,
                     name: str) -> tuple[StageCost, StageCost]:
    """Price one stage in which no block runs again, and the same with those
    of a class run again.

    Parameters
    ----------
    stage, whole, cost, optimizer, known
        As for :func:`stage_cost`.
    name : str
        Of the block class.
    """
    program = _only_losing(stage.program, whole)
    calls = {n: _calls(program, n, known) for n in program.classes}
    rerun = dataclasses.replace(stage.layout, recompute=frozenset({name}))
    once, again = stage_times(program, stage.layout, cost, calls, {name})
    moments: dict[str, Moments] = {}
    plain, repeated = (_stage_cost(stage, program, layout, found, cost,
                                   optimizer, calls, moments)
                       for layout, found in ((stage.layout, once), (rerun,
                                                                    again)))
    return plain, repeated


def _only_losing(program: Program, whole: Program) -> Program:
    """A stage's program with no output but the loss."""
    kept = tuple(n for n in program.outputs if n == whole.loss_name)
    return dataclasses.replace(program,
                               outputs=kept,
                               output_constants=(None, ) * len(kept))


def _stage_cost(stage: Stage, program: Program, layout: ProgramLayout,
                found: StageTime, cost: ConversionCost, optimizer: str,
                calls: KnownCalls, moments: dict[str, Moments]) -> StageCost:
    parts = layout.mesh.size(MICROBATCH)
    device = cost.device
    memory = estimate_memory(program,
                             layout,
                             optimizer=optimizer,
                             calls=calls,
                             moments=moments)
    memory = dataclasses.replace(memory,
                                 gradients=max(
                                     memory.gradients,
                                     _unreduced_bytes(program, layout)))
    weight_s = min(found.backward_s, _weight_s(program, layout, calls, cost))
    adding_s = sums_s(program, layout, device)
    trained = sum(program.specs[n].requires_grad for n in program.params)
    handed_s = trained * device.coefficient("call_parameter_s", 0.0)
    return StageCost(forward_s=found.forward_s,
                     input_s=found.backward_s - weight_s,
                     weight_s=weight_s + adding_s * (parts - 1) / parts,
                     products_s=weight_s,
                     sums_s=adding_s,
                     begin_s=found.begin_s,
                     finish_s=found.finish_s + handed_s,
                     found=found,
                     saved_bytes=memory.saved + taken_bytes(stage),
                     memory=memory)


def stage_forward_s(program: Program, layout: ProgramLayout,
                    cost: ConversionCost, known: KnownByClass) -> float:
    """Seconds of the forward of one micro-batch, as `StageCost` has it.

    Parameters
    ----------
    program : Program
        What a stage runs, or some of it.
    layout : ProgramLayout
    cost : ConversionCost
    known : KnownByClass
        Filled with what is found.
    """
    calls = {n: _calls(program, n, known) for n in program.classes}
    return _priced(program, layout, cost, calls).forward_s


def _priced(program: Program, layout: ProgramLayout, cost: ConversionCost,
            calls: KnownCalls) -> StageTime:
    found = price(program, layout, cost, cost.device, calls=calls,
                  stage=True).stage
    assert found is not None
    return found


def _calls(program: Program, name: str,
           known: KnownByClass) -> Sequence[KnownCall]:
    """The calls of a class, found once for all stages that have it."""
    cls = program.classes[name]
    if id(cls) not in known:
        one = dataclasses.replace(program, classes={name: cls})
        known[id(cls)] = known_calls(one)[name]
    return known[id(cls)]


def _weight_s(program: Program, layout: ProgramLayout,
              calls: Mapping[str, Sequence[KnownCall]],
              cost: ConversionCost) -> float:
    """Gradients of weights: half of the backward of products with one."""
    total = 0.0
    for block in program.blocks:
        chosen = layout.classes[block.block_class].calls
        for call in calls[block.block_class]:
            if not call.work.forward_flops or not any(v.bound_kind == "param"
                                                      for v in call.operands):
                continue
            own, sizes = chosen[call.label], layout.mesh.sizes
            _, backward_s = call.times_s(cost.device, own.share(sizes),
                                         call.made(own.options, sizes))
            total += backward_s / 2
    return total


def _unreduced_bytes(program: Program, layout: ProgramLayout) -> int:
    """Gradients summed over micro-batches before they are reduced."""
    found = {}
    for block, node, name in program.uses():
        spec = program.specs.get(name)
        if value_kind(name) == "param" and spec and spec.requires_grad:
            hub = layout.classes[block.block_class].hubs[Value(node).label]
            found[name] = local_spec(spec, hub, layout.mesh.sizes).size_bytes
    return sum(found.values())


def taken_bytes(stage: Stage) -> int:
    """Local bytes that a micro-batch takes from earlier stages."""
    return sum(wire_bytes(stage, name) for name in stage.takes)


def wire_bytes(stage: Stage, name: str) -> int:
    """Local bytes of one of these values, of a micro-batch."""
    return local_spec(stage.program.specs[name], stage.layout.at_rest[name],
                      stage.layout.mesh.sizes).size_bytes
