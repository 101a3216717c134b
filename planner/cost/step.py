"""The event model of one step: what of each collective is exposed.

Blocks are run once for each class (:mod:`planner.cost.block_order`), then
the step block by block with what moves between rest and use
(:mod:`planner.cost.state_moves`): units of parameters one ahead, gradients
as soon as a bucket is full, all waited for at the end of the backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.cost.block_order import BlockOrder
from planner.cost.plan_price import CollectivePrice, Exposure, StepTime
from planner.cost.state_moves import Bucket, StateMoves, Unit
from planner.cost.timeline import (Action, Compute, Start, Streams, Timeline,
                                   Wait, run)
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program

__all__ = ["step_time"]


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
    ways = {n: _Ways.of(order, streams) for n, order in orders.items()}
    steps = _Steps(program, ways, state)
    outside = [c for c in collectives if c.where == "between blocks"]
    around_s += sum(c.time_s for c in outside)
    found = run([*steps.actions, Compute(around_s)], streams)
    names = [*mesh.names, ""]
    exposures = [
        Exposure(where=b.what,
                 value=f"{b.count} packed" if b.count > 1 else "alone",
                 kind=b.kind,
                 axis=names[b.axis],
                 direction=direction,
                 size_bytes=b.size_bytes,
                 time_s=b.time_s,
                 exposed_s=found.exposed_s[number],
                 count=1)
        for number, (b, direction) in enumerate(steps.buckets)
    ]
    counts = {n: 0 for n in orders}
    for block in program.blocks:
        counts[block.block_class] += 1
    straggling_s = found.straggling_s
    interference_s = found.interference_s
    for name, way in ways.items():
        straggling_s += counts[name] * way.sum("straggling_s")
        interference_s += counts[name] * way.sum("interference_s")
        exposures += [
            _exposure(collectives[number], exposed_s * counts[name])
            for number, exposed_s in sorted(way.exposed_s.items())
        ]
    exposures += [_exposure(c, c.time_s) for c in outside]
    return StepTime(time_s=found.time_s,
                    straggling_s=straggling_s,
                    interference_s=interference_s,
                    around_s=around_s - sum(c.time_s for c in outside),
                    exposures=tuple(exposures))


def _exposure(c: CollectivePrice, exposed_s: float) -> Exposure:
    return Exposure(where=c.where,
                    value=c.value,
                    kind=c.kind,
                    axis=c.axis,
                    direction=c.direction,
                    size_bytes=c.size_bytes,
                    time_s=c.time_s,
                    exposed_s=exposed_s,
                    count=c.count)


@dataclass(frozen=True, slots=True)
class _Ways:
    """A block's two ways, after blocks like it."""

    forward: Timeline
    backward: Timeline

    @classmethod
    def of(cls, order: BlockOrder, streams: Streams) -> _Ways:
        return cls(_steady(order.forward(), streams),
                   _steady(order.backward(), streams))

    @property
    def exposed_s(self) -> dict[int, float]:
        return {**self.forward.exposed_s, **self.backward.exposed_s}

    def sum(self, name: str) -> float:
        return float(
            getattr(self.forward, name) + getattr(self.backward, name))


def _steady(actions: Sequence[Action], streams: Streams) -> Timeline:
    """As the second of two that follow each other."""
    if not any(isinstance(a, Wait) for a in actions):
        return run(actions, streams)
    first = run(actions, streams)
    return run(actions, streams, since_s=first.since_s)


@dataclass(slots=True)
class _Writer:
    """Actions, with the buckets that they send."""

    actions: list[Action] = field(default_factory=list)
    buckets: list[tuple[Bucket, str]] = field(default_factory=list)

    def compute(self, time_s: float) -> None:
        if time_s:
            self.actions.append(Compute(time_s))

    def start(self, bucket: Bucket, direction: str) -> int:
        self.compute(bucket.before_s)
        number = len(self.buckets)
        self.buckets.append((bucket, direction))
        self.actions.append(Start(number, bucket.time_s))
        return number

    def wait(self, number: int) -> None:
        self.actions.append(Wait(number))
        self.compute(self.buckets[number][0].after_s)


class _Feed:
    """Units one ahead of the block that needs them."""

    def __init__(self, units: Sequence[Unit], writer: _Writer,
                 direction: str) -> None:
        self._units = iter(units)
        self._writer = writer
        self._direction = direction
        self._unit: Unit | None = None
        self._coming: list[int | Bucket] = []
        self._advance()

    def _advance(self) -> None:
        self._unit = next(self._units, None)
        self._coming = [
            b if b.waits else self._writer.start(b, self._direction)
            for b in (self._unit.buckets if self._unit else ())
        ]

    def arrive(self, block: int) -> None:
        """What this block is the first to need."""
        if self._unit is None or self._unit.first != block:
            return
        coming = self._coming
        self._advance()
        for one in coming:
            self._writer.wait(one if isinstance(one, int) else self._writer.
                              start(one, self._direction))


class _Steps:
    """The order of a whole step."""

    def __init__(self, program: Program, ways: Mapping[str, _Ways],
                 state: StateMoves) -> None:
        self._writer = _Writer()
        blocks = [ways[b.block_class] for b in program.blocks]
        feed = _Feed(state.gathers(), self._writer, "forward")
        for number, block in enumerate(blocks):
            feed.arrive(number)
            self._block(block.forward)
        feed = _Feed(state.gathers_again(), self._writer, "regather")
        sent = state.reductions()
        pending: list[int] = []
        for number in range(len(blocks) - 1, -1, -1):
            feed.arrive(number)
            self._block(blocks[number].backward)
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

    def _block(self, way: Timeline) -> None:
        since_s = way.since_s if way.exposed_s else None
        self.actions.append(Compute(way.time_s, since_s))

    def _reduce(self, buckets: Sequence[Bucket], pending: list[int]) -> None:
        for bucket in buckets:
            number = self._writer.start(bucket, "backward")
            if bucket.waits:
                self._writer.wait(number)
            else:
                pending.append(number)
