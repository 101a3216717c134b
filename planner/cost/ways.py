"""Ways through blocks, and what moves between them, as actions of a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.cost.block_order import BlockOrder
from planner.cost.plan_price import CollectivePrice, Exposure
from planner.cost.state_moves import Bucket, Unit
from planner.cost.timeline import (Action, Compute, Start, Streams, Timeline,
                                   Wait, run)
from planner.ir.mesh import MeshSpec

__all__ = ["BlockWays", "Feed", "Writer", "exposed_buckets", "exposure"]


@dataclass(frozen=True, slots=True)
class BlockWays:
    """A block's two ways, after blocks like it."""

    forward: Timeline
    backward: Timeline

    @classmethod
    def of(cls, order: BlockOrder, streams: Streams) -> BlockWays:
        """Both ways of a class."""
        forward, backward = order.launches()
        return cls(_fed(_steady(order.forward(), streams), streams, forward),
                   _fed(_steady(order.backward(), streams), streams, backward))

    @property
    def exposed_s(self) -> dict[int, float]:
        """Of each collective, by number."""
        return {**self.forward.exposed_s, **self.backward.exposed_s}

    def sum(self, name: str) -> float:
        """Of a number of both ways."""
        return float(
            getattr(self.forward, name) + getattr(self.backward, name))


def _steady(actions: Sequence[Action], streams: Streams) -> Timeline:
    """As the second of two that follow each other."""
    if not any(isinstance(a, Wait) for a in actions):
        return run(actions, streams)
    first = run(actions, streams)
    return run(actions, streams, since_s=first.since_s)


def _fed(way: Timeline, streams: Streams, launches: int) -> Timeline:
    """A way whose kernels a host has to launch."""
    host_s = streams.host_s(way.time_s, launches)
    return replace(way, time_s=way.time_s +
                   host_s, host_s=host_s) if host_s else way


@dataclass(slots=True)
class Writer:
    """Actions, with the buckets that they send."""

    actions: list[Action] = field(default_factory=list)
    buckets: list[tuple[Bucket, str]] = field(default_factory=list)

    def compute(self, time_s: float) -> None:
        """Nothing where it takes no time."""
        if time_s:
            self.actions.append(Compute(time_s))

    def block(self, way: Timeline) -> None:
        """A whole way through a block."""
        since_s = way.since_s if way.exposed_s else None
        self.actions.append(Compute(way.time_s, since_s))

    def start(self, bucket: Bucket, direction: str) -> int:
        """Send a bucket; its number."""
        self.compute(bucket.before_s)
        number = len(self.buckets)
        self.buckets.append((bucket, direction))
        self.actions.append(
            Compute(bucket.time_s) if bucket.
            is_local else Start(number, bucket.time_s))
        return number

    def wait(self, number: int) -> None:
        """Until a bucket is there and unpacked."""
        bucket, _ = self.buckets[number]
        if not bucket.is_local:
            self.actions.append(Wait(number))
        self.compute(bucket.after_s)


class Feed:
    """Units one ahead of the block that needs them."""

    def __init__(self, units: Sequence[Unit], writer: Writer,
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


def exposure(c: CollectivePrice, exposed_s: float) -> Exposure:
    """A collective inside of or between blocks, with what nothing hides."""
    return Exposure(where=c.where,
                    value=c.value,
                    kind=c.kind,
                    axis=c.axis,
                    direction=c.direction,
                    size_bytes=c.size_bytes,
                    time_s=c.time_s,
                    exposed_s=exposed_s,
                    count=c.count)


def exposed_buckets(buckets: Sequence[tuple[Bucket, str]],
                    exposed_s: Mapping[int, float],
                    mesh: MeshSpec,
                    *,
                    times: int = 1) -> list[Exposure]:
    """What buckets cost a step.

    Parameters
    ----------
    buckets : sequence of (Bucket, str)
        With their directions.
    exposed_s : mapping of int to float
        By number, what nothing hides; all of it where a number is missing.
    mesh : MeshSpec
    times : int
        How often each is sent.
    """
    names = [*mesh.names, ""]
    return [
        Exposure(where=b.what,
                 value=f"{b.count} packed" if b.count > 1 else "alone",
                 kind=b.kind,
                 axis=names[b.axis],
                 direction=direction,
                 size_bytes=b.size_bytes,
                 time_s=times * b.time_s,
                 exposed_s=times * exposed_s.get(number, b.time_s),
                 count=times) for number, (b, direction) in enumerate(buckets)
    ]
