"""What a stage of a pipeline takes, by the event model.

The runtime's order (:mod:`scaletorch.runtime.pipeline`): parameters that
stay in use are gathered before the first micro-batch; a micro-batch runs the
blocks as a whole step does, what is gathered again one unit ahead; its
gradients are added to sums; these are reduced in buckets after the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from planner.cluster.device import DeviceKind
from planner.cost.block_order import BlockOrder
from planner.cost.compute import memory_time_s
from planner.cost.conversion import ConversionCost
from planner.cost.memory_estimate import local_spec
from planner.cost.plan_price import CollectivePrice, StageTime
from planner.cost.state_moves import StateMoves, Unit
from planner.cost.timeline import Streams, Timeline, run
from planner.cost.ways import BlockWays, Feed, Writer
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, value_kind
from planner.ir.values import Value

__all__ = ["stage_time", "sums_s"]

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
    blocks = [ways[b.block_class] for b in program.blocks]
    outside = {
        backward:
        sum(c.time_s for c in collectives if c.where == "between blocks" and (
            c.direction == "backward") == backward)
        for backward in (False, True)
    }
    forward = _micro_batch([(n, b.forward) for n, b in enumerate(blocks)],
                           state.gathers_each(), streams)
    backward = _micro_batch([(n, b.backward)
                             for n, b in enumerate(blocks)][::-1],
                            state.gathers_again(), streams)
    return StageTime(
        forward_s=forward + (outside[False] + local_s / 2) / parts,
        backward_s=backward + (outside[True] + local_s / 2) / parts,
        begin_s=_begin_s(len(blocks), state, streams),
        finish_s=_finish_s(state, streams))


def _micro_batch(ways: Sequence[tuple[int, Timeline]], units: Sequence[Unit],
                 streams: Streams) -> float:
    writer = Writer()
    feed = Feed(units, writer, "")
    for number, way in ways:
        feed.arrive(number)
        writer.block(way)
    return run(writer.actions, streams).time_s


def _begin_s(blocks: int, state: StateMoves, streams: Streams) -> float:
    writer = Writer()
    feed = Feed(state.gathers_once(), writer, "")
    for number in range(blocks):
        feed.arrive(number)
    return run(writer.actions, streams).time_s


def _finish_s(state: StateMoves, streams: Streams) -> float:
    writer = Writer()
    pending = []
    for bucket in (b for sent in state.reductions() for b in sent):
        number = writer.start(bucket, "")
        if bucket.waits:
            writer.wait(number)
        else:
            pending.append(number)
    for number in pending:
        writer.wait(number)
    return run(writer.actions, streams).time_s


def sums_s(program: Program, layout: ProgramLayout,
           device: DeviceKind) -> float:
    """Adding the gradients of one micro-batch to those of others.

    A gradient and its sum are read, the sum is written, in 32 bits where
    gradients have 16.

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
            moved[name] = float(held.size_bytes + 2 * _sum_bytes(held.dtype) *
                                (held.size_bytes // held.dtype.itemsize))
    return (memory_time_s(sum(moved.values()), device, kernels=len(moved)) +
            len(moved) * device.launch_overhead_s)


def _sum_bytes(dtype: torch.dtype) -> int:
    return max(dtype.itemsize, _FLOAT_BYTES)
