"""Parameters on their way into use, in buckets.

Parameters of consecutive steps that move alike are gathered together, up
to a size, one unit of steps ahead of use. What is gathered again for the
backward is freed after the last step of its unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from passes.collectives import apply_move
from passes.shard_parameters import ParameterMove
from planner.ir.convert import Step
from scaletorch.runtime.given_back import give_back
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.lost import Watched

__all__ = ["Bucket", "Feed", "Unit", "plan_units"]

_WHAT = "gathering parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Parameters that move alike.

    Parameters
    ----------
    moves : mapping of str to ParameterMove
        By name in use.
    axis : int or None
        Over which all are gathered by one message; None: each has moves of
        its own.
    dims : tuple of int
        Along which ranks' parts of each are joined, where they are
        gathered.
    """

    moves: Mapping[str, ParameterMove]
    axis: int | None
    dims: tuple[int, ...]

    @staticmethod
    def of(moves: Mapping[str, ParameterMove]) -> Bucket:
        gathers = [_only_gather(m) for m in moves.values()]
        return Bucket(moves=moves,
                      axis=gathers[0].axis if gathers[0] else None,
                      dims=tuple(g.source.dim for g in gathers if g))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Parameters that are brought into use together.

    Parameters
    ----------
    first : int
        The step that needs them first.
    buckets : tuple of Bucket
    dies : mapping of str to int
        The last step of the unit that reads a value; only of those that
        are gathered again later.
    """

    first: int
    buckets: tuple[Bucket, ...]
    dies: Mapping[str, int]


@dataclass(slots=True)
class _Draft:
    """A unit to which steps are still added."""

    first: int
    moves: dict[str, ParameterMove] = field(default_factory=dict)
    dies: dict[str, int] = field(default_factory=dict)

    def size_with(self, moves: Mapping[str, ParameterMove]) -> int:
        """Bytes that the unit gathers, with these."""
        return sum(map(_size_bytes, {**self.moves, **moves}.values()))

    def add(self, number: int, moves: Mapping[str, ParameterMove]) -> None:
        for name, move in moves.items():
            self.moves[name] = move
            if move.regather:
                self.dies[name] = number

    def finished(self) -> Unit:
        alike: dict[Any, dict[str, ParameterMove]] = {}
        for name, move in self.moves.items():
            alike.setdefault(_signature(move), {})[name] = move
        return Unit(first=self.first,
                    buckets=tuple(map(Bucket.of, alike.values())),
                    dies=self.dies)


def plan_units(steps: Sequence[tuple[int, Mapping[str, ParameterMove]]],
               limit_bytes: int) -> tuple[Unit, ...]:
    """Join the parameter movements of consecutive steps.

    Parameters
    ----------
    steps : sequence of (int, mapping)
        Step numbers, in the order in which they run, with the movements
        that each of them needs.
    limit_bytes : int
        A unit of several steps gathers at most this.
    """
    units: list[Unit] = []
    draft: _Draft | None = None
    kept: set[str] = set()
    for number, wanted in steps:
        moves = {n: m for n, m in wanted.items() if n not in kept}
        if not moves:
            continue
        if draft is not None and draft.size_with(moves) > limit_bytes:
            units.append(draft.finished())
            draft = None
        draft = draft or _Draft(first=number)
        draft.add(number, moves)
        kept |= {n for n, m in moves.items() if not m.regather}
    if draft is not None:
        units.append(draft.finished())
    return tuple(units)


def _size_bytes(move: ParameterMove) -> int:
    return math.prod(move.spec.shape) * move.spec.dtype.itemsize


def _signature(move: ParameterMove) -> tuple[Any, ...]:
    gathers = _only_gather(move)
    if gathers is None:
        return (move.source, )
    return (gathers.axis, move.spec.dtype)


def _only_gather(move: ParameterMove) -> Step | None:
    """The single all-gather of a parameter that does nothing else."""
    moving = [s for s in move.steps if s.forward.kind != "none"]
    if (len(moving) == 1 and moving[0].forward.kind == "all_gather"
            and not moving[0].source.parts):
        return moving[0]
    return None


class Feed:
    """Brings units into use, one ahead of the step that needs it.

    Parameters
    ----------
    units : sequence of Unit
        In the order of use.
    state : mapping of str to Tensor
        Local parameters at rest.
    groups : Groups
    """

    def __init__(self, units: Sequence[Unit],
                 state: Mapping[str, torch.Tensor], groups: Groups) -> None:
        self._units = iter(units)
        self._state = state
        self._groups = groups
        self._unit: Unit | None = None
        self._dies: Mapping[str, int] = {}
        self._coming: list[_Gather] = []
        self._advance()

    def _advance(self) -> None:
        self._unit = next(self._units, None)
        # After the last unit none is held, and so its buffers are freed.
        self._coming = [
            _Gather(bucket, self._state, self._groups)
            for bucket in (self._unit.buckets if self._unit else ())
        ]

    def arrive(self, number: int) -> dict[str, torch.Tensor]:
        """What step `number` is the first to need."""
        if self._unit is None or self._unit.first != number:
            return {}
        self._dies, coming = self._unit.dies, self._coming
        # The next unit starts before this one is waited for, so that the
        # link does not idle in between.
        self._advance()
        values: dict[str, torch.Tensor] = {}
        for gather in coming:
            values.update(gather.finish())
        return values

    def dead(self, number: int, names: Iterable[str]) -> list[str]:
        """Which of these are gathered again before they are next read."""
        return [n for n in names if self._dies.get(n) == number]


class _Gather:
    """A bucket on its way into use."""

    def __init__(self, bucket: Bucket, state: Mapping[str, torch.Tensor],
                 groups: Groups) -> None:
        self.bucket = bucket
        self.local = [state[m.source] for m in bucket.moves.values()]
        self.groups = groups
        if bucket.axis is not None:
            self._start(bucket.axis)

    def _start(self, axis: int) -> None:
        parts = [x.reshape(-1) for x in self.local]
        flat = torch.cat(parts) if len(parts) > 1 else parts[0]
        self.sent = flat if len(parts) > 1 else None
        self.size, group = self.groups.axes[axis].size, self.groups.groups[
            axis]
        self.whole = flat.new_empty(self.size * flat.numel())
        self.watched = Watched(_WHAT, group)
        with self.watched:
            self.work = dist.all_gather_single(self.whole,
                                               flat,
                                               group=group,
                                               async_op=True)

    def finish(self) -> dict[str, torch.Tensor]:
        """Wait, and give the values in use by name."""
        bucket = self.bucket
        if bucket.axis is None:
            return {
                name: _moved(x, move, self.groups)
                for (name, move
                     ), x in zip(bucket.moves.items(), self.local, strict=True)
            }
        with self.watched:
            self.work.wait()
        del self.work
        if self.sent is not None:
            give_back(self.sent)
        parts = self.whole.view(self.size, -1).split_with_sizes(
            [x.numel() for x in self.local], 1)
        values = {
            name: _joined(part, x.shape, dim)
            for name, part, x, dim in zip(
                bucket.moves, parts, self.local, bucket.dims, strict=True)
        }
        if not any(_shares(x, self.whole) for x in values.values()):
            give_back(self.whole)
        return values


def _shares(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    first, second = (t.untyped_storage().data_ptr() for t in (one, other))
    return first == second


def _joined(parts: torch.Tensor, shape: Sequence[int],
            dim: int) -> torch.Tensor:
    """Every rank's flat part of one parameter as the whole parameter.

    A copy, unless the bucket has no other: the buffer that all of them
    share is freed at once.
    """
    whole = list(shape)
    whole[dim] *= len(parts)
    if dim > 0:
        parts = parts.view(len(parts), *shape).movedim(0, dim)
    # A dim of one element per rank is joined without a copy, as a view that
    # is not contiguous, which not every kernel takes.
    return parts.reshape(whole).contiguous()


def _moved(x: torch.Tensor, move: ParameterMove,
           groups: Groups) -> torch.Tensor:
    for step in move.steps:
        with Watched(_WHAT, groups.groups[step.axis]):
            x = apply_move(x, step.forward, groups.axes[step.axis])
    return x
