"""Conversions between layouts: which collectives, in which order.

The single place that knows what turning one placement into another means.
The cost model prices its answer and the passes emit it, so both agree.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from planner.ir.layout import Layout, P, Placement, R

__all__ = ["Move", "Step", "conversion_steps", "move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What one axis does to turn one placement of a value into another.

    `kind` is ``none``, a collective (``all_reduce``, ``all_gather``,
    ``reduce_scatter``, ``all_to_all``; ``regroup``: an all-to-all between
    a shard and one by parts of the same dim) or local (``slice``, ``mask``:
    keep the value on the first rank and zeros elsewhere, ``pad``: a shard
    among zeros). Parts are of the dim of the same side.
    """

    kind: str
    source_dim: int = -1
    target_dim: int = -1
    reduce: str = "sum"
    source_parts: tuple[int, ...] = ()
    target_parts: tuple[int, ...] = ()

    @property
    def is_collective(self) -> bool:
        return self.kind not in ("none", "slice", "mask", "pad")


_NONE = Move(kind="none")


@functools.lru_cache(maxsize=4096)
def move(source: Placement, target: Placement) -> Move | None:
    """The move between two value placements; None where there is none.

    ``R`` and ``V`` are the same here: only the value counts.
    """
    if source.is_replicated:
        return _from_replicated(target)
    if source.is_shard:
        return _from_shard(source, target)
    return _from_partial(source, target)


def _from_replicated(target: Placement) -> Move | None:
    if target.is_replicated:
        return _NONE
    if target.is_shard:
        return Move(kind="slice",
                    target_dim=target.dim,
                    target_parts=target.parts)
    return Move(kind="mask") if target == P else None


def _from_shard(source: Placement, target: Placement) -> Move | None:
    if target.is_replicated:
        return Move(kind="all_gather",
                    source_dim=source.dim,
                    source_parts=source.parts)
    if target == source:
        return _NONE
    if target.is_shard:
        same = target.dim == source.dim
        return Move(kind="regroup" if same else "all_to_all",
                    source_dim=source.dim,
                    target_dim=target.dim,
                    source_parts=source.parts,
                    target_parts=target.parts)
    return Move(kind="pad", source_dim=source.dim,
                source_parts=source.parts) if target == P else None


def _from_partial(source: Placement, target: Placement) -> Move | None:
    if target == source:
        return _NONE
    if target.is_replicated:
        return Move(kind="all_reduce", reduce=source.reduce)
    if target.is_shard:
        return Move(kind="reduce_scatter",
                    target_dim=target.dim,
                    target_parts=target.parts,
                    reduce=source.reduce) if source == P else None
    return None


def _gradient(placement: Placement) -> Placement:
    """The gradient's layout, as a value placement."""
    if placement.is_shard:
        return placement
    return P if placement.kind == "V" else R


@functools.lru_cache(maxsize=4096)
def gradient_move(source: Placement, target: Placement) -> Move | None:
    """What the gradient does when a value went from source to target."""
    return move(_gradient(target), _gradient(source))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One axis' part of a conversion, with the layout it starts from."""

    axis: int
    source: Placement
    target: Placement
    before: Layout

    @property
    def forward(self) -> Move:
        found = move(self.source, self.target)
        assert found is not None
        return found

    @property
    def backward(self) -> Move:
        found = gradient_move(self.source, self.target)
        assert found is not None
        return found


@functools.lru_cache(maxsize=65536)
def conversion_steps(source: Layout, target: Layout, *,
                     differentiable: bool) -> tuple[Step, ...] | None:
    """Single-axis steps from one layout to another, in order.

    A dim that several axes shard is cut by the outermost axis first, so
    an axis may only cut or join a dim on which no inner axis lies.

    Parameters
    ----------
    source, target : Layout
    differentiable : bool
        Whether a gradient flows back; if not, ``R`` and ``V`` are alike.

    Returns
    -------
    tuple of Step, or None when the target can't be reached step by step
        (the caller then goes through another layout).
    """
    if not differentiable:
        source, target = _plain(source), _plain(target)
    changed = [
        a for a, (s, t) in enumerate(zip(source, target, strict=True))
        if s != t
    ]
    best: tuple[Step, ...] | None = None
    for order in itertools.permutations(changed):
        steps = _in_order(source, target, order, differentiable)
        if steps is not None and (best is None
                                  or _weight(steps) < _weight(best)):
            best = steps
    return best


def _plain(layout: Sequence[Placement]) -> Layout:
    return tuple(R if p.is_replicated else p for p in layout)


def _in_order(source: Layout, target: Layout, order: Sequence[int],
              differentiable: bool) -> tuple[Step, ...] | None:
    current = list(source)
    steps = []
    for axis in order:
        step = Step(axis=axis,
                    source=current[axis],
                    target=target[axis],
                    before=tuple(current))
        if not _is_legal(step, differentiable):
            return None
        steps.append(step)
        current[axis] = target[axis]
    return tuple(steps)


def _is_legal(step: Step, differentiable: bool) -> bool:
    if move(step.source, step.target) is None:
        return False
    if differentiable and gradient_move(step.source, step.target) is None:
        return False
    touched = [p for p in (step.source, step.target) if p.is_shard]
    dims = {p.dim for p in touched}
    inner = step.before[step.axis + 1:]
    if any(p.is_shard and p.dim in dims for p in inner):
        return False
    # What a plain shard over an outer axis leaves has other parts.
    return all(p.parts == outer.parts for p in touched if p.parts
               for outer in step.before[:step.axis]
               if outer.is_shard and outer.dim == p.dim)


def _weight(steps: Sequence[Step]) -> int:
    """Prefer gathering late and cutting early: fewer bytes on the way."""
    total = 0
    for position, step in enumerate(steps):
        kind = step.forward.kind
        grows = kind == "all_gather"
        shrinks = kind in ("slice", "reduce_scatter")
        total += (len(steps) - position) * (grows - shrinks)
    return total
