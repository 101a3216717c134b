"""Parameters on their way into use, and gradients back, in buckets.

The buckets are the executor's: parameters of consecutive blocks that move
alike are gathered together, a unit of blocks ahead; gradients that move
alike are packed in the order in which the backward makes them. So the
latency of a collective is paid once for all that travels together, and
packing is paid for by copies.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from planner.cost.conversion import ConversionCost, Held
from planner.cost.roofline import memory_time_s
from planner.ir.convert import Step, conversion_steps
from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, value_kind
from planner.ir.values import Value
from planner.rules.registry import TensorSpec

__all__ = ["BUCKET_BYTES", "Bucket", "StateMoves", "Unit"]

BUCKET_BYTES = 25 << 20
"""Size of buckets, as in Li et al., PyTorch Distributed, 2020."""
_PACKED = ("all_reduce", "reduce_scatter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One collective, or a few after each other, of several parameters.

    Parameters
    ----------
    what : str
        ``parameters`` or ``gradients``.
    kind : str
        Of the first collective.
    axis : int
        Of that.
    size_bytes : float
        That the group holds together.
    count : int
        Parameters.
    time_s : float
        Of the first collective.
    before_s, after_s : float
        Copies before it starts, and after it was waited for; further
        collectives among the latter.
    waits : bool
        Whether the rank waits for it at once.
    is_local : bool
        Whether nothing is sent, so that it waits for no message before it.
    """

    what: str
    kind: str
    axis: int
    size_bytes: float
    count: int
    time_s: float
    before_s: float = 0.0
    after_s: float = 0.0
    waits: bool = False
    is_local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is brought into use before block number `first`."""

    first: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """From rest into use, of all parameters that look the same."""

    steps: tuple[Step, ...]
    whole: tuple[Held, ...]
    spec: TensorSpec

    @functools.cached_property
    def used_bytes(self) -> float:
        return max((w.size_bytes for w in self.whole), default=0.0)

    @functools.cached_property
    def moves_forward(self) -> bool:
        return any(s.forward.kind != "none" for s in self.steps)

    @functools.cached_property
    def moves_backward(self) -> bool:
        return self.spec.requires_grad and any(s.backward.kind != "none"
                                               for s in self.steps)

    @functools.cached_property
    def only_gather(self) -> Step | None:
        moving = [s for s in self.steps if s.forward.kind != "none"]
        if (len(moving) == 1 and moving[0].forward.kind == "all_gather"
                and not moving[0].source.parts):
            return moving[0]
        return None

    @functools.cached_property
    def packed(self) -> tuple[Any, ...] | None:
        """What the gradients of one bucket have in common; None: goes alone.
        """
        steps = [s for s in reversed(self.steps) if s.backward.kind != "none"]
        scatters = sum(s.backward.kind == "reduce_scatter" for s in steps)
        fits = steps and scatters <= 1 and all(
            s.backward.kind in _PACKED and not s.backward.target_parts
            for s in steps)
        key = (self.spec.dtype, *((s.axis, s.backward.kind) for s in steps))
        return key if fits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """One parameter's way into one block."""

    source: str
    way: _Way
    regather: bool


@dataclass(slots=True)
class _Open:
    """A bucket that is being filled."""

    moves: list[_Move] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    size_bytes: float = 0.0

    def add(self, moves: Iterable[_Move]) -> None:
        """Put more into it."""
        for move in moves:
            self.moves.append(move)
            self.sources.add(move.source)
            self.size_bytes += move.way.used_bytes


class StateMoves:
    """The movements of a program's parameters in given layouts.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    cost : ConversionCost
    bucket_bytes : int
    """

    def __init__(self,
                 program: Program,
                 layout: ProgramLayout,
                 cost: ConversionCost,
                 *,
                 bucket_bytes: int = BUCKET_BYTES) -> None:
        self._cost = cost
        self._bucket_bytes = bucket_bytes
        names = layout.mesh.names
        self._summed = names.index(MICROBATCH) if MICROBATCH in names else -1
        self._known: dict[Any, _Way] = {}
        self._blocks = list(self._moves(program, layout))

    def _moves(self, program: Program,
               layout: ProgramLayout) -> Iterator[list[_Move]]:
        nodes = {n: c.placeholders for n, c in program.classes.items()}
        for block in program.blocks:
            hubs = layout.classes[block.block_class].hubs
            found = []
            for node, name in zip(nodes[block.block_class],
                                  block.operands,
                                  strict=True):
                if value_kind(name) != "param":
                    continue
                value = Value(node)
                way = self._way(value.spec, layout.at_rest[name],
                                hubs[value.label])
                if way.steps:
                    found.append(
                        _Move(source=name,
                              way=way,
                              regather=name in layout.regather))
            yield found

    def _way(self, spec: TensorSpec, rest: Layout, use: Layout) -> _Way:
        key = spec, rest, use
        if key not in self._known:
            steps = conversion_steps(rest,
                                     use,
                                     differentiable=spec.requires_grad)
            assert steps is not None
            # Between micro-batches nothing moves, nor over one rank.
            steps = tuple(
                s for s in steps
                if s.axis != self._summed and self._cost.sizes[s.axis] > 1)
            whole = [self._cost.held(spec, step) for step in steps]
            self._known[key] = _Way(steps=steps,
                                    whole=tuple(w or Held(0.0) for w in whole),
                                    spec=spec)
        return self._known[key]

    def gathers(self) -> list[Unit]:
        """What the forward brings into use, in its order."""
        return list(self._units(enumerate(self._blocks), (False, True)))

    def gathers_once(self) -> list[Unit]:
        """Of that what stays, and a pipeline's step begins with."""
        return list(self._units(enumerate(self._blocks), (False, )))

    def gathers_each(self) -> list[Unit]:
        """Of that what is brought for each micro-batch."""
        return list(self._units(enumerate(self._blocks), (True, )))

    def gathers_again(self) -> list[Unit]:
        """The same for the backward, in its order."""
        blocks = reversed(list(enumerate(self._blocks)))
        return list(self._units(blocks, (True, )))

    def _units(self, blocks: Iterable[tuple[int, list[_Move]]],
               regather: tuple[bool, ...]) -> Iterator[Unit]:
        first, draft, kept = -1, _Open(), set[str]()
        for number, moves in blocks:
            wanted = _Open()
            wanted.add(m for m in moves if m.source not in kept
                       and m.way.moves_forward and m.regather in regather)
            if not wanted.moves:
                continue
            if draft.moves and (draft.size_bytes + wanted.size_bytes
                                > self._bucket_bytes):
                yield Unit(first=first, buckets=self._gathered(draft))
                draft = _Open()
            first = first if draft.moves else number
            draft.add(wanted.moves)
            kept |= {m.source for m in wanted.moves if not m.regather}
        if draft.moves:
            yield Unit(first=first, buckets=self._gathered(draft))

    def _gathered(self, draft: _Open) -> tuple[Bucket, ...]:
        alike: dict[Any, list[_Move]] = {}
        for move in draft.moves:
            step = move.way.only_gather
            key = (move.source, ) if step is None else (step.axis,
                                                        move.way.spec.dtype)
            alike.setdefault(key, []).append(move)
        return tuple(map(self._gather, alike.values()))

    def _gather(self, moves: list[_Move]) -> Bucket:
        step = moves[0].way.only_gather
        if step is None:
            return self._alone(moves[0], backward=False)
        size = sum(m.way.used_bytes for m in moves)
        ranks = self._cost.sizes[step.axis]
        return Bucket(what="parameters",
                      kind="all_gather",
                      axis=step.axis,
                      size_bytes=size,
                      count=len(moves),
                      time_s=self._cost.collective_s("all_gather", size,
                                                     step.axis),
                      before_s=self._copied_s(size / ranks, 1),
                      after_s=self._copied_s(size, len(moves)))

    def _alone(self, move: _Move, *, backward: bool) -> Bucket:
        """A parameter whose steps follow each other."""
        pairs = list(zip(move.way.steps, move.way.whole, strict=True))
        pairs = pairs[::-1] if backward else pairs
        ways = [(s.backward if backward else s.forward, s.axis, n)
                for s, n in pairs]
        moving = [w for w in ways if w[0].is_collective] or ways[:1]
        (how, axis, _), *_ = moving
        return Bucket(what="gradients" if backward else "parameters",
                      kind=how.kind,
                      axis=axis,
                      size_bytes=move.way.used_bytes,
                      count=1,
                      time_s=sum(
                          self._cost.move_time_s(w, n, a) for w, a, n in ways),
                      waits=True,
                      is_local=not how.is_collective)

    def _copied_s(self, size_bytes: float, count: int) -> float:
        device = self._cost.device
        return (memory_time_s(
            2 * size_bytes / self._cost.divided, device, kernels=count) +
                count * device.launch_overhead_s)

    def reductions(self) -> list[list[Bucket]]:
        """Per block what its backward sends, and last what is left."""
        sent: list[list[Bucket]] = [[] for _ in range(len(self._blocks) + 1)]
        open_: dict[Any, _Open] = {}
        for number in range(len(self._blocks) - 1, -1, -1):
            for move in self._blocks[number]:
                key = move.way.packed
                if not move.way.moves_backward:
                    continue
                if key is None:
                    sent[number].append(self._alone(move, backward=True))
                    continue
                bucket = open_.setdefault(key, _Open())
                if move.source not in bucket.sources:
                    bucket.add([move])
                if bucket.size_bytes >= self._bucket_bytes:
                    sent[number].append(self._reduce(open_.pop(key).moves))
        sent[-1] = [self._reduce(o.moves) for o in open_.values()]
        return sent

    def _reduce(self, moves: list[_Move]) -> Bucket:
        way = moves[0].way
        steps = [(s, n) for s, n in zip(way.steps, way.whole)
                 if s.backward.kind != "none"][::-1]
        size = sum(m.way.used_bytes for m in moves)
        share = size / max(way.used_bytes, 1e-30)
        times = [
            self._cost.collective_s(s.backward.kind, n.size_bytes * share,
                                    s.axis) for s, n in steps
        ]
        first, _ = steps[0]
        scatters = any(s.backward.kind == "reduce_scatter" for s, _ in steps)
        return Bucket(what="gradients",
                      kind=first.backward.kind,
                      axis=first.axis,
                      size_bytes=size,
                      count=len(moves),
                      time_s=times[0],
                      before_s=self._copied_s(2 * size if scatters else size,
                                              len(moves)),
                      after_s=sum(times[1:]))
