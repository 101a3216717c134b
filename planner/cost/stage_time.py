"""What a stage of a pipeline takes, by the event model.

The runtime's order (:mod:`scaletorch.runtime.pipeline`): parameters that
stay in use are gathered before the first micro-batch; a micro-batch runs the
blocks as a whole step does, what is gathered again one unit ahead; its
gradients are added to sums; these are reduced in buckets after its last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from planner.cluster.device import DeviceKind
from planner.cost.block_order import BlockOrder
from planner.cost.conversion import ConversionCost
from planner.cost.memory_estimate import local_spec
from planner.cost.plan_price import CollectivePrice, Exposure, StageTime
from planner.cost.roofline import memory_time_s
from planner.cost.state_moves import Bucket, StateMoves, Unit
from planner.cost.timeline import Streams, Timeline, run
from planner.cost.ways import (BlockWays, Feed, Writer, exposed_buckets,
                               exposure)
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, value_kind
from planner.ir.values import Value

__all__ = ["fed_s", "once_s", "stage_time", "summed_bytes", "sums_s"]

_FLOAT_BYTES = 4


def stage_time(program: Program, layout: ProgramLayout, cost: ConversionCost,
               orders: Mapping[str, BlockOrder],
               collectives: Sequence[CollectivePrice],
               local_s: float) -> StageTime:
    """One micro-batch of a stage, and what is done once a step.

    Parameters
    ----------
    program : Program
        Of the stage.
    layout : ProgramLayout
        With an axis of micro-batches.
    cost : ConversionCost
        Of its mesh.
    orders : mapping of str to BlockOrder
        By block class.
    collectives : sequence of CollectivePrice
        Of all micro-batches; those between blocks are waited for.
    local_s : float
        Copies between blocks, both ways, of all of them.
    """
    parts = layout.mesh.size(MICROBATCH)
    state = StateMoves(program, layout, cost)
    streams = Streams.of(cost.device)
    ways = {n: BlockWays.of(order, streams) for n, order in orders.items()}
    blocks = list(enumerate(ways[b.block_class] for b in program.blocks))
    forward = _micro_batch([(n, b.forward) for n, b in blocks],
                           state.gathers_each(), "forward", streams)
    backward = _micro_batch([(n, b.backward) for n, b in reversed(blocks)],
                            state.gathers_again(), "regather", streams)
    begin = _begin(len(blocks), state, streams)
    finish = _finish(state, streams)
    phases = ((forward, parts), (backward, parts), (begin, 1), (finish, 1))
    counts = Counter(b.block_class for b in program.blocks)
    times = {name: parts * counts[name] for name in ways}
    between = [c for c in collectives if c.where == "between blocks"]
    exposures = [
        e for phase, count in phases for e in exposed_buckets(
            phase.buckets, phase.line.exposed_s, layout.mesh, times=count)
    ]
    exposures += _in_blocks(ways, times, collectives)
    exposures += [exposure(c, c.time_s) for c in between]

    def micro_batch_s(phase: _Phase, *, is_backward: bool) -> float:
        outside_s = sum(c.time_s for c in between
                        if (c.direction == "backward") == is_backward)
        return phase.line.time_s + (outside_s + local_s / 2) / parts

    def whole_s(what: str) -> float:
        return sum(count * getattr(phase.line, what)
                   for phase, count in phases) + sum(
                       times[name] * way.sum(what)
                       for name, way in ways.items())

    return StageTime(forward_s=micro_batch_s(forward, is_backward=False),
                     backward_s=micro_batch_s(backward, is_backward=True),
                     begin_s=begin.line.time_s,
                     finish_s=finish.line.time_s,
                     forward_host_s=sum(b.forward.host_s for _, b in blocks),
                     backward_host_s=sum(b.backward.host_s for _, b in blocks),
                     straggling_s=whole_s("straggling_s"),
                     interference_s=whole_s("interference_s"),
                     exposures=tuple(exposures))


def _in_blocks(ways: Mapping[str, BlockWays], times: Mapping[str, int],
               collectives: Sequence[CollectivePrice]) -> list[Exposure]:
    """What of the collectives inside of blocks is exposed, in a step."""
    return [
        exposure(collectives[number], times[name] * exposed_s)
        for name, way in ways.items()
        for number, exposed_s in sorted(way.exposed_s.items())
    ]


@dataclass(frozen=True, slots=True)
class _Phase:
    """A part of a step that was run, and the buckets that it sends."""

    line: Timeline
    buckets: Sequence[tuple[Bucket, str]]

    @classmethod
    def of(cls, writer: Writer, streams: Streams) -> Self:
        return cls(run(writer.actions, streams), writer.buckets)


def _micro_batch(ways: Sequence[tuple[int, Timeline]], units: Sequence[Unit],
                 direction: str, streams: Streams) -> _Phase:
    writer = Writer()
    feed = Feed(units, writer, direction)
    for number, way in ways:
        feed.arrive(number)
        writer.block(way)
    return _Phase.of(writer, streams)


def _begin(blocks: int, state: StateMoves, streams: Streams) -> _Phase:
    writer = Writer()
    feed = Feed(state.gathers_once(), writer, "forward")
    for number in range(blocks):
        feed.arrive(number)
    return _Phase.of(writer, streams)


def _finish(state: StateMoves, streams: Streams) -> _Phase:
    writer = Writer()
    pending = []
    for bucket in (b for sent in state.reductions() for b in sent):
        number = writer.start(bucket, "backward")
        if bucket.waits:
            writer.wait(number)
        else:
            pending.append(number)
    for number in pending:
        writer.wait(number)
    return _Phase.of(writer, streams)


def once_s(state: StateMoves, blocks: int,
           streams: Streams) -> tuple[float, float]:
    """What is moved once a step, before the first micro-batch and after the
    last.

    Parameters
    ----------
    state : StateMoves
        Of a stage's program.
    blocks : int
        How many it has.
    streams : Streams
    """
    begin, finish = _begin(blocks, state, streams), _finish(state, streams)
    return begin.line.time_s, finish.line.time_s


def fed_s(times_s: Sequence[float], units: Sequence[Unit],
          streams: Streams) -> float:
    """One way of a micro-batch through blocks whose parameters are gathered
    for it.

    Parameters
    ----------
    times_s : sequence of float
        Of blocks, in the order in which they run.
    units : sequence of Unit
        By the place in this order.
    streams : Streams
    """
    ways = list(enumerate(map(Timeline.of_work, times_s)))
    return _micro_batch(ways, units, "forward", streams).line.time_s


def sums_s(program: Program, layout: ProgramLayout,
           device: DeviceKind) -> float:
    """Adding the gradients of one micro-batch to those of others.

    Parameters
    ----------
    program : Program
        Of the stage.
    layout : ProgramLayout
    device : DeviceKind
    """
    moved: dict[str, float] = {}
    for block, node, name in program.uses():
        spec = program.specs.get(name)
        if value_kind(name) == "param" and spec and spec.requires_grad:
            hub = layout.classes[block.block_class].hubs[Value(node).label]
            held = local_spec(spec, hub, layout.mesh.sizes)
            moved[name] = summed_bytes(held.dtype, held.size_bytes)
    return (memory_time_s(sum(moved.values()), device, kernels=len(moved)) +
            len(moved) * device.launch_overhead_s)


def summed_bytes(dtype: torch.dtype, size_bytes: float) -> float:
    """What is moved to add a gradient of `size_bytes` to a sum of others.

    Both are read, the sum is written, in 32 bits where gradients have 16.
    """
    elements = size_bytes / dtype.itemsize
    return size_bytes + 2 * elements * max(dtype.itemsize, _FLOAT_BYTES)
