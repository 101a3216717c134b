"""Parameters into use and gradients back to rest, in buckets.

A bucket holds parameters of one block that move alike. All-gathers are
started one block ahead, gradient reductions as soon as the block's
backward has run, and both are waited for as late as possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from passes.collectives import AxisRef, apply_move
from passes.shard_parameters import ParameterMove
from planner.ir.convert import Step

__all__ = ["Bucket", "Gather", "Reduction", "make_buckets"]

_GATHERED = ("none", "all_gather")
_REDUCED = ("none", "all_reduce", "reduce_scatter")


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Parameters of one step that move alike.

    Parameters
    ----------
    names : tuple of str
        Names of the values in use.
    moves : tuple of ParameterMove
    axes : mapping of int to AxisRef
        With real group names.
    groups : mapping of int to ProcessGroup
    """

    names: tuple[str, ...]
    moves: tuple[ParameterMove, ...]
    axes: Mapping[int, AxisRef]
    groups: Mapping[int, Any]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The first parameter's steps; all have the same kinds."""
        return self.moves[0].steps

    @property
    def is_packed(self) -> bool:
        """Whether all movements are ones that work on packed buffers."""
        scatters = sum(s.backward.kind == "reduce_scatter"
                       for s in self.steps)
        return scatters <= 1 and all(
            s.forward.kind in _GATHERED and s.backward.kind in _REDUCED
            for s in self.steps)

    @property
    def moves_forward(self) -> bool:
        return any(m.moves_forward for m in self.moves)

    @property
    def regather(self) -> bool:
        return any(m.regather for m in self.moves)


def make_buckets(moves: Mapping[str, ParameterMove],
                 axes: Mapping[int, AxisRef],
                 groups: Mapping[int, Any]) -> list[Bucket]:
    """Group the movements of one step by what they do."""
    alike: dict[Any, list[str]] = {}
    for name, move in moves.items():
        alike.setdefault(_signature(move), []).append(name)
    return [Bucket(names=tuple(names), moves=tuple(moves[n] for n in names),
                   axes=axes, groups=groups) for names in alike.values()]


def _signature(move: ParameterMove) -> tuple[Any, ...]:
    kinds = tuple((s.axis, s.forward.kind, s.backward.kind)
                  if move.spec.requires_grad else (s.axis, s.forward.kind)
                  for s in move.steps)
    packed = all(s.forward.kind in _GATHERED for s in move.steps)
    alone = "" if packed else move.source
    return (kinds, move.spec.dtype, move.regather,
            move.spec.requires_grad, alone)


class Gather:
    """A bucket on its way into use."""

    def __init__(self, bucket: Bucket,
                 local: Sequence[torch.Tensor]) -> None:
        self.bucket = bucket
        self.local = local
        self.work: Any = None
        self.whole: torch.Tensor | None = None
        self.step = _only_gather(bucket)
        if self.step is not None:
            flat = torch.cat([x.reshape(-1) for x in local])
            size = bucket.axes[self.step.axis].size
            self.whole = flat.new_empty(size * flat.numel())
            self.work = dist.all_gather_single(
                self.whole, flat, group=bucket.groups[self.step.axis],
                async_op=True)

    def finish(self) -> dict[str, torch.Tensor]:
        """Wait, and give the values in use by name."""
        bucket = self.bucket
        if self.step is None:
            return {n: _moved(x, m, bucket.axes) for n, x, m in zip(
                bucket.names, self.local, bucket.moves, strict=True)}
        self.work.wait()
        assert self.whole is not None
        size = bucket.axes[self.step.axis].size
        table = self.whole.view(size, -1)
        values, start = {}, 0
        for name, x, m in zip(bucket.names, self.local, bucket.moves,
                              strict=True):
            dim = _gather_step(m).source.dim
            part = table[:, start:start + x.numel()]
            values[name] = part.reshape(size, *x.shape).movedim(
                0, dim).flatten(dim, dim + 1)
            start += x.numel()
        return values


def _only_gather(bucket: Bucket) -> Step | None:
    """The single all-gather of a bucket that does nothing else forward."""
    gathers = [s for s in bucket.steps if s.forward.kind == "all_gather"]
    others = [s for s in bucket.steps
              if s.forward.kind not in ("none", "all_gather")]
    return gathers[0] if len(gathers) == 1 and not others else None


def _gather_step(move: ParameterMove) -> Step:
    return next(s for s in move.steps if s.forward.kind == "all_gather")


def _moved(x: torch.Tensor, move: ParameterMove,
           axes: Mapping[int, AxisRef]) -> torch.Tensor:
    for step in move.steps:
        x = apply_move(x, step.forward, axes[step.axis])
    return x


@dataclass(slots=True)
class Reduction:
    """A bucket's gradients on their way back to rest."""

    bucket: Bucket
    grads: list[torch.Tensor]
    names: list[str]
    moves: list[ParameterMove]
    buffer: torch.Tensor | None = None
    work: Any = None
    todo: list[Step] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)

    @staticmethod
    def start(bucket: Bucket,
              found: Mapping[str, torch.Tensor]) -> Reduction | None:
        """Start reducing the gradients that a block's backward gave."""
        pairs = [(n, m) for n, m in zip(bucket.names, bucket.moves,
                                        strict=True) if n in found]
        if not pairs:
            return None
        made = Reduction(bucket=bucket,
                         grads=[found[n] for n, _ in pairs],
                         names=[n for n, _ in pairs],
                         moves=[m for _, m in pairs])
        if bucket.is_packed:
            made._pack()
            made._advance()
        return made

    def _pack(self) -> None:
        self.todo = [s for s in reversed(self.bucket.steps)
                     if s.backward.kind != "none"]
        scatter = self._scatter()
        if scatter is None:
            self.shapes = [g.shape for g in self.grads]
            self.buffer = torch.cat([g.reshape(-1) for g in self.grads])
            return
        size = self.bucket.axes[scatter.axis].size
        rows = []
        for grad, move in zip(self.grads, self.moves, strict=True):
            dim = _scatter_step(move).source.dim
            parts = grad.unflatten(dim, (size, -1)).movedim(dim, 0)
            self.shapes.append(parts.shape[1:])
            rows.append(parts.reshape(size, -1))
        self.buffer = torch.cat(rows, 1)

    def _scatter(self) -> Step | None:
        found = [s for s in self.bucket.steps
                 if s.backward.kind == "reduce_scatter"]
        return found[0] if found else None

    def _advance(self) -> None:
        """Start the next collective on the packed buffer."""
        if not self.todo:
            return
        step = self.todo.pop(0)
        group = self.bucket.groups[step.axis]
        assert self.buffer is not None
        if step.backward.kind == "all_reduce":
            self.work = dist.all_reduce(self.buffer, group=group,
                                        async_op=True)
            return
        size = self.bucket.axes[step.axis].size
        out = self.buffer.new_empty(self.buffer.numel() // size)
        self.work = dist.reduce_scatter_single(
            out, self.buffer.view(-1), group=group, async_op=True)
        self.buffer = out

    def finish(self) -> dict[str, torch.Tensor]:
        """Wait, and give the gradients at rest by parameter."""
        if self.buffer is None:
            return self._one_by_one()
        while self.work is not None:
            self.work.wait()
            self.work = None
            self._advance()
        parts = self.buffer.split([s.numel() for s in self.shapes])
        return {m.source: p.view(s) for m, p, s in zip(
            self.moves, parts, self.shapes, strict=True)}

    def _one_by_one(self) -> dict[str, torch.Tensor]:
        done = {}
        for grad, move in zip(self.grads, self.moves, strict=True):
            for step in reversed(move.steps):
                grad = apply_move(grad, step.backward,
                                  self.bucket.axes[step.axis])
            done[move.source] = grad
        return done


def _scatter_step(move: ParameterMove) -> Step:
    return next(s for s in move.steps if s.backward.kind == "reduce_scatter")
