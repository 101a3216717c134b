"""What elimination does for each variable, whatever its tables hold.

That is known from scopes and sizes alone, which problems have in common that
differ in their prices; so which tables are added, in which order and how they
are spread is found once for all of these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Step", "Steps", "steps_of"]

Shape = tuple[int, ...]
_Part = tuple[tuple[str, ...], Shape, int]
"""Scope, shape and number of a table."""


@dataclass(frozen=True, slots=True)
class Step:
    """Tables that are added and minimised over their first axis.

    Parameters
    ----------
    tables : tuple of int
        Their numbers, small ones first so that few additions are of the full
        size.
    shapes : tuple of (tuple of int or None)
        Of each beside the others; None where it stays as it is.
    left : tuple of int
        Shape of the result.
    """

    tables: tuple[int, ...]
    shapes: tuple[Shape | None, ...]
    left: Shape


@dataclass(frozen=True, slots=True)
class Steps:
    """An elimination; the numbers of results follow those of factors.

    Parameters
    ----------
    axes : tuple of (tuple of int or None)
        In which order the axes of each factor are taken; None for its own.
    steps : tuple of Step
    constants : tuple of int
        Tables of which no variable is left.
    back : tuple of (str, tuple of (int, tuple of str))
        Variables, the last that goes first, with the tables that each is the
        first variable of and the others of these.
    """

    axes: tuple[Shape | None, ...]
    steps: tuple[Step, ...]
    constants: tuple[int, ...]
    back: tuple[tuple[str, tuple[tuple[int, tuple[str, ...]], ...]], ...]


@functools.lru_cache(maxsize=64)
def steps_of(scopes: tuple[tuple[str, ...], ...], shapes: tuple[Shape, ...],
             names: tuple[str, ...], limit: int | None) -> Steps:
    """How to eliminate variables one after the other.

    Parameters
    ----------
    scopes, shapes : tuple
        Of each factor; a shape may have an axis more, of a batch.
    names : tuple of str
        All variables, the one that goes first first.
    limit : int, optional
        Tables are only added up as far as their sum has no more entries.
    """
    rank = {name: i for i, name in enumerate(names)}
    buckets: dict[str, list[_Part]] = {name: [] for name in names}
    axes: list[Shape | None] = []
    steps: list[Step] = []
    constants: list[int] = []

    def put(part: _Part) -> None:
        if part[0]:
            buckets[part[0][0]].append(part)
        else:
            constants.append(part[2])

    for number, (scope, shape) in enumerate(zip(scopes, shapes, strict=True)):
        order = _order(scope, len(shape), rank)
        axes.append(order)
        if order is not None:
            scope = tuple(scope[i] for i in order[:len(scope)])
            shape = tuple(shape[i] for i in order)
        put((scope, shape, number))
    for name in names:
        for group in _grouped(buckets[name], limit):
            scope, step = _step(group, rank)
            steps.append(step)
            put((scope, step.left, len(scopes) + len(steps) - 1))
    return Steps(
        tuple(axes), tuple(steps), tuple(constants),
        tuple((name, tuple((n, scope[1:]) for scope, _, n in buckets[name]))
              for name in reversed(names)))


def _order(scope: tuple[str, ...], ndim: int,
           rank: Mapping[str, int]) -> Shape | None:
    ordered = sorted(range(len(scope)), key=lambda i: rank[scope[i]])
    if ordered == list(range(len(scope))):
        return None
    return (*ordered, *range(len(scope), ndim))


def _grouped(parts: Sequence[_Part],
             limit: int | None) -> Iterable[Sequence[_Part]]:
    """Parts to be added; several groups only where the limit asks."""
    if limit is None:
        return [parts] if parts else []
    groups: list[tuple[dict[str, int], list[_Part]]] = []
    for part in sorted(parts, key=lambda p: (-math.prod(p[1]), p[0])):
        own = dict(zip(part[0], part[1]))
        for sizes, group in groups:
            merged = sizes | own
            if math.prod(merged.values()) <= limit:
                sizes.update(own)
                group.append(part)
                break
        else:
            groups.append((own, [part]))
    return [group for _, group in groups]


def _step(parts: Sequence[_Part],
          rank: Mapping[str, int]) -> tuple[tuple[str, ...], Step]:
    """The scope that adding parts leaves, and how."""
    if len(parts) == 1:
        (scope, shape, number), = parts
        return scope[1:], Step((number, ), (None, ), shape[1:])
    parts = sorted(parts, key=lambda p: (math.prod(p[1]), p[0]))
    sizes = {n: s for names, shape, _ in parts for n, s in zip(names, shape)}
    scope = tuple(sorted(sizes, key=rank.__getitem__))
    batch = max(shape[len(names):] for names, shape, _ in parts)
    return scope[1:], Step(tuple(n for *_, n in parts),
                           tuple(_spread(p, scope) for p in parts),
                           (*(sizes[n] for n in scope[1:]), *batch))


def _spread(part: _Part, scope: tuple[str, ...]) -> Shape | None:
    """With an axis for every variable of the scope."""
    names, shape, _ = part
    if names == scope:
        return None
    sizes = dict(zip(names, shape))
    return (*(sizes.get(n, 1) for n in scope), *shape[len(names):])
