"""Conversions between placements as differentiable functions.

Each runs on local tensors and becomes functional collectives when traced;
its backward is the adjoint that the two placements imply (see
:mod:`planner.ir.layout`), not the adjoint of the collective: torch's own
backward of ``all_reduce`` reduces once more, which is wrong for a
replicated consumer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.distributed._functional_collectives  # noqa: F401 (registers ops)

from passes.parts import (by_part, by_rank, picked, put_back, rows_got,
                          rows_sent)
from planner.ir.convert import Move, gradient_move, move
from planner.ir.layout import Placement
from planner.ir.shares import lengths

__all__ = ["AxisRef", "apply_move", "convert"]

_OPS = torch.ops._c10d_functional


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisRef:
    """One rank's view of a mesh axis.

    `name` stands as the process group's name in the traced graph until the
    runtime binds it to a real group. The parts of a `sequential` axis are
    computed one after the other by the same rank: nothing moves over it.
    `shares` are what its ranks get of a divided dim, in proportion, where
    that is not the same.
    """

    name: str
    size: int
    coordinate: int
    sequential: bool = False
    shares: tuple[int, ...] = ()

    @property
    def divisor(self) -> int | Fraction:
        """How many times this rank's part is in the whole."""
        if not self.shares:
            return self.size
        return Fraction(sum(self.shares), self.shares[self.coordinate])

    def part(self, size: int) -> tuple[int, int]:
        """Where this rank's part of a dim begins, and its length."""
        every = lengths(size, self.shares or (1, ) * self.size)
        return sum(every[:self.coordinate]), every[self.coordinate]

    def whole(self, length: int) -> int:
        """The dim of which this rank's part has so many places."""
        return int(length * self.divisor)


class _Convert(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward: Move, backward: Move,
                axis: AxisRef) -> torch.Tensor:
        ctx.move, ctx.axis = backward, axis
        out = apply_move(x, forward, axis)
        return x.view_as(x) if out is x else out

    @staticmethod
    def backward(ctx: Any,
                 grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return apply_move(grad, ctx.move, ctx.axis), None, None, None


def convert(x: torch.Tensor, source: Placement, target: Placement,
            axis: AxisRef) -> torch.Tensor:
    """Turn a local tensor from one placement over an axis into another.

    Parameters
    ----------
    x : Tensor
        This rank's part under `source`.
    source, target : Placement
    axis : AxisRef

    Returns
    -------
    Tensor
        This rank's part under `target`; its gradient flows back from
        ``target.grad`` to ``source.grad``.
    """
    forward = move(source, target)
    assert forward is not None, f"no conversion from {source} to {target}"
    if not x.requires_grad:
        return apply_move(x, forward, axis)
    backward = gradient_move(source, target)
    assert backward is not None, f"no gradient from {target} to {source}"
    return _Convert.apply(x, forward, backward, axis)


def apply_move(x: torch.Tensor, how: Move, axis: AxisRef) -> torch.Tensor:
    """Carry out one move of one axis, without autograd.

    Parameters
    ----------
    x : Tensor
        What this rank holds.
    how : Move
    axis : AxisRef

    Returns
    -------
    Tensor
        What it holds then; collectives are waited for.
    """
    # Over one rank nothing moves.
    if how.kind == "none" or axis.size == 1:
        return x
    if axis.sequential:
        return _over_parts(x, how, axis)
    if how.kind == "all_reduce":
        return _wait(_OPS.all_reduce(x.contiguous(), how.reduce, axis.name))
    if how.kind == "regroup":
        return _regroup(x, how, axis)
    if how.target_parts:
        x = by_rank(x, how.target_dim, how.target_parts, axis.size)
    x = _apply_plain(x, how, axis)
    if how.source_parts:
        x = by_part(x, how.source_dim, how.source_parts, axis.size)
    return x


def _over_parts(x: torch.Tensor, how: Move, axis: AxisRef) -> torch.Tensor:
    """A move between parts that do not see each other.

    Where a plan lets a part stand for the whole batch, the sum over all
    parts is what it would be if all were like this one.
    """
    assert how.kind in ("mask", "all_reduce"), f"{how.kind} over {axis.name}"
    if how.kind == "mask":
        return x / axis.size
    return x * axis.size if how.reduce == "sum" else x


def _apply_plain(x: torch.Tensor, how: Move, axis: AxisRef) -> torch.Tensor:
    """A move whose shards are the chunks of a dim in order."""
    if how.kind == "all_gather":
        return _all_gather(x, how.source_dim, axis)
    if how.kind == "reduce_scatter":
        return _reduce_scatter(x, how.target_dim, how.reduce, axis)
    if how.kind == "all_to_all":
        return _all_to_all(x, how.source_dim, how.target_dim, axis)
    if how.kind == "slice":
        return _slice(x, how.target_dim, axis)
    if how.kind == "mask":
        return x if axis.coordinate == 0 else torch.zeros_like(x)
    assert how.kind == "pad", how.kind
    return _pad(x, how.source_dim, axis)


def _wait(x: torch.Tensor) -> torch.Tensor:
    return _OPS.wait_tensor(x)


def _share(x: torch.Tensor, dim: int, axis: AxisRef) -> int:
    """The size that each rank gets of a dim."""
    share, rest = divmod(x.shape[dim], axis.size)
    if rest:
        raise ValueError(
            f"dim {dim} of a tensor of shape {tuple(x.shape)} does not "
            f"divide over the {axis.size} ranks of {axis.name}; shard "
            "another dim, or pad it")
    return share


def _all_gather(x: torch.Tensor, dim: int, axis: AxisRef) -> torch.Tensor:
    front = x.movedim(dim, 0).contiguous()
    if axis.shares:
        whole = _gather_shares(front, axis)
    else:
        whole = _gather(front, axis)
    return whole if dim == 0 else whole.movedim(0, dim).contiguous()


def _gather(x: torch.Tensor, axis: AxisRef) -> torch.Tensor:
    return _wait(_OPS.all_gather_into_tensor(x, axis.size, axis.name))


def _gather_shares(x: torch.Tensor, axis: AxisRef) -> torch.Tensor:
    """All ranks send as much as the longest part has."""
    every = lengths(axis.whole(x.shape[0]), axis.shares)
    longest = max(every)
    short = x.new_zeros((longest - x.shape[0], *x.shape[1:]))
    parts = _gather(torch.cat([x, short]), axis)
    return torch.cat([
        parts.narrow(0, rank * longest, length)
        for rank, length in enumerate(every)
    ])


def _reduce_scatter(x: torch.Tensor, dim: int, reduce: str,
                    axis: AxisRef) -> torch.Tensor:
    if axis.shares:
        whole = _wait(_OPS.all_reduce(x.contiguous(), reduce, axis.name))
        return _slice(whole, dim, axis)
    _share(x, dim, axis)
    front = x.movedim(dim, 0).contiguous()
    part = _wait(
        _OPS.reduce_scatter_tensor(front, reduce, axis.size, axis.name))
    return part if dim == 0 else part.movedim(0, dim).contiguous()


def _all_to_all(x: torch.Tensor, source: int, target: int,
                axis: AxisRef) -> torch.Tensor:
    """From shards of dim `source` to shards of dim `target`."""
    n = axis.size
    parts = x.unflatten(target, (n, _share(x, target, axis)))
    front = parts.movedim(target, 0).contiguous()
    ones = [1] * n
    mine = _wait(_OPS.all_to_all_single(front, ones, ones, axis.name))
    return mine.movedim(0, source).flatten(source, source + 1)


def _regroup(x: torch.Tensor, how: Move, axis: AxisRef) -> torch.Tensor:
    """From shards of a dim to shards by parts of it, or back."""
    dim, n = how.source_dim, axis.size
    place = (x.shape[dim] * n, how.source_parts, how.target_parts, n,
             axis.coordinate)
    sent, got = rows_sent(*place), rows_got(*place)
    front = picked(x.movedim(dim, 0), 0, [r for to in sent for r in to])
    mine = _wait(
        _OPS.all_to_all_single(front, _counts(got), _counts(sent), axis.name))
    whole = put_back(mine, [r for of in got for r in of])
    return whole.movedim(0, dim).contiguous()


def _counts(rows: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    return [sum(b - a for a, b in places) for places in rows]


def _slice(x: torch.Tensor, dim: int, axis: AxisRef) -> torch.Tensor:
    if not axis.shares:
        _share(x, dim, axis)
    return x.narrow(dim, *axis.part(x.shape[dim])).contiguous()


def _pad(x: torch.Tensor, dim: int, axis: AxisRef) -> torch.Tensor:
    if not axis.shares:
        parts = [torch.zeros_like(x)] * axis.size
    else:
        every = lengths(axis.whole(x.shape[dim]), axis.shares)
        parts = [
            x.new_zeros((*x.shape[:dim], length, *x.shape[dim + 1:]))
            for length in every
        ]
    parts[axis.coordinate] = x
    return torch.cat(parts, dim)
