"""The event model of one step: what of each collective is exposed.

Blocks are run once for each class (:mod:`planner.cost.block_order`), then
the step block by block with what moves between rest and use
(:mod:`planner.cost.state_moves`): units of parameters one ahead, gradients
as soon as a bucket is full, all waited for at the end of the backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.cost.block_order import BlockOrder
from planner.cost.plan_price import CollectivePrice, StepTime
from planner.cost.state_moves import Bucket, StateMoves
from planner.cost.timeline import Action, Compute, Streams, Timeline, run
from planner.cost.ways import (BlockWays, Feed, Writer, exposed_buckets,
                               exposure)
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program

__all__ = ["blocks_s", "step_time"]


def step_time(program: Program, mesh: MeshSpec, orders: Mapping[str,
                                                                BlockOrder],
              collectives: Sequence[CollectivePrice], state: StateMoves,
              streams: Streams, *, around_s: float) -> StepTime:
    """One step of forward and backward on one rank.

    Parameters
    ----------
    program : Program
    mesh : MeshSpec
    orders : mapping of str to BlockOrder
        By block class; the numbers of messages are places in
        `collectives`.
    collectives : sequence of CollectivePrice
        All but those of parameters and gradients are exposed or hidden
        here; those between blocks are waited for.
    state : StateMoves
    streams : Streams
    around_s : float
        Around the blocks: calling the module, handing gradients over, and
        copies between blocks.
    """
    ways = {n: BlockWays.of(order, streams) for n, order in orders.items()}
    steps = _Steps(program, ways, state)
    outside = [c for c in collectives if c.where == "between blocks"]
    around_s += sum(c.time_s for c in outside)
    found = run([*steps.actions, Compute(around_s)], streams)
    exposures = exposed_buckets(steps.buckets, found.exposed_s, mesh)
    counts = {n: 0 for n in orders}
    for block in program.blocks:
        counts[block.block_class] += 1
    straggling_s = found.straggling_s
    interference_s = found.interference_s
    host_s = 0.0
    for name, way in ways.items():
        straggling_s += counts[name] * way.sum("straggling_s")
        interference_s += counts[name] * way.sum("interference_s")
        host_s += counts[name] * way.sum("host_s")
        exposures += [
            exposure(collectives[number], exposed_s * counts[name])
            for number, exposed_s in sorted(way.exposed_s.items())
        ]
    exposures += [exposure(c, c.time_s) for c in outside]
    return StepTime(time_s=found.time_s,
                    straggling_s=straggling_s,
                    interference_s=interference_s,
                    host_s=host_s,
                    around_s=around_s - sum(c.time_s for c in outside),
                    exposures=tuple(exposures))


def blocks_s(program: Program, ways: Mapping[str, tuple[float, float]],
             state: StateMoves, streams: Streams) -> float:
    """Seconds of a step, of what the blocks of each class take in both ways.

    Parameters
    ----------
    program : Program
    ways : mapping of str to (float, float)
    state : StateMoves
    streams : Streams
    """
    lines = {
        n: BlockWays(*map(Timeline.of_work, way))
        for n, way in ways.items()
    }
    return run(_Steps(program, lines, state).actions, streams).time_s


class _Steps:
    """The order of a whole step."""

    def __init__(self, program: Program, ways: Mapping[str, BlockWays],
                 state: StateMoves) -> None:
        self._writer = Writer()
        blocks = [ways[b.block_class] for b in program.blocks]
        feed = Feed(state.gathers(), self._writer, "forward")
        for number, block in enumerate(blocks):
            feed.arrive(number)
            self._writer.block(block.forward)
        feed = Feed(state.gathers_again(), self._writer, "regather")
        sent = state.reductions()
        pending: list[int] = []
        for number in range(len(blocks) - 1, -1, -1):
            feed.arrive(number)
            self._writer.block(blocks[number].backward)
            self._reduce(sent[number], pending)
        self._reduce(sent[-1], pending)
        for message in pending:
            self._writer.wait(message)

    @property
    def actions(self) -> list[Action]:
        return self._writer.actions

    @property
    def buckets(self) -> list[tuple[Bucket, str]]:
        return self._writer.buckets

    def _reduce(self, buckets: Sequence[Bucket], pending: list[int]) -> None:
        for bucket in buckets:
            number = self._writer.start(bucket, "backward")
            if bucket.waits:
                self._writer.wait(number)
            else:
                pending.append(number)
