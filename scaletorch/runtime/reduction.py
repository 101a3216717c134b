"""Gradients on their way back to rest, in buckets.

Gradients that move alike are packed, whichever blocks they come from; a
bucket is reduced as soon as it is full, and all are waited for at the end
of the backward.
"""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["Reducer", "Route"]

_PACKED = ("all_reduce", "reduce_scatter")
_WHAT = "reducing gradients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How the gradient of one parameter gets back to rest.

    Parameters
    ----------
    source : str
        The parameter.
    steps : tuple of Step
        What moves, in the order of the backward.
    packed : tuple or None
        What gradients of one bucket have in common; None: goes alone.
    """

    source: str
    steps: tuple[Step, ...]
    packed: tuple[Any, ...] | None

    @staticmethod
    def of(move: ParameterMove) -> Route:
        steps = tuple(s for s in reversed(move.steps)
                      if s.backward.kind != "none")
        scatters = sum(s.backward.kind == "reduce_scatter" for s in steps)
        fits = steps and scatters <= 1 and all(
            s.backward.kind in _PACKED and not s.backward.target_parts
            for s in steps)
        key = (move.spec.dtype, *((s.axis, s.backward.kind) for s in steps))
        return Route(source=move.source,
                     steps=steps,
                     packed=key if fits else None)

    @property
    def scatter(self) -> Step | None:
        """The step that leaves a part of the gradient on each rank."""
        return next(
            (s for s in self.steps if s.backward.kind == "reduce_scatter"),
            None)


@dataclass(slots=True)
class _Bucket:
    """Gradients that wait to be packed."""

    grads: dict[str, torch.Tensor] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    size_bytes: int = 0

    def add(self, route: Route, grad: torch.Tensor) -> None:
        if route.source in self.grads:
            grad = self.grads[route.source] + grad
        else:
            self.size_bytes += grad.numel() * grad.element_size()
        self.grads[route.source] = grad
        self.routes[route.source] = route


class Reducer:
    """Collects the gradients of one backward pass.

    Parameters
    ----------
    groups : Groups
    limit_bytes : int
        A bucket is sent when it holds this much.
    """

    def __init__(self, groups: Groups, limit_bytes: int) -> None:
        self._groups = groups
        self._limit_bytes = limit_bytes
        self._open: dict[tuple[Any, ...], _Bucket] = {}
        self._sent: list[_Sent] = []
        self._done: list[tuple[str, torch.Tensor]] = []

    def add(self, route: Route, grad: torch.Tensor) -> None:
        """Take a local gradient; all ranks add the same ones in order."""
        if route.packed is None:
            for step in route.steps:
                with Watched(_WHAT, self._groups.groups[step.axis]):
                    grad = apply_move(grad, step.backward,
                                      self._groups.axes[step.axis])
            self._done.append((route.source, grad))
            return
        bucket = self._open.get(route.packed)
        if bucket is None:
            bucket = self._open[route.packed] = _Bucket()
        bucket.add(route, grad)
        if bucket.size_bytes >= self._limit_bytes:
            self._send(self._open.pop(route.packed))

    def _send(self, bucket: _Bucket) -> None:
        self._sent.append(_Sent(bucket.grads, bucket.routes, self._groups))

    def send(self) -> None:
        """Send the buckets that are not full, too."""
        for key in list(self._open):
            self._send(self._open.pop(key))

    def finish(self) -> list[tuple[str, torch.Tensor]]:
        """Wait for all; parameters with (summands of) their gradients."""
        self.send()
        done = self._done
        for sent in self._sent:
            done += sent.finish()
        return done


class _Sent:
    """A packed bucket on its way."""

    def __init__(self, grads: Mapping[str, torch.Tensor],
                 routes: Mapping[str, Route], groups: Groups) -> None:
        self.groups = groups
        self.names = tuple(grads)
        first = next(iter(routes.values()))
        self.todo = list(first.steps)
        self.shapes: list[torch.Size] = []
        self.work: Any = None
        self.scattered: torch.Tensor | None = None
        if first.scatter is None:
            self.shapes = [g.shape for g in grads.values()]
            self.buffer = torch.cat([g.reshape(-1) for g in grads.values()])
        else:
            size = groups.axes[first.scatter.axis].size
            self.buffer = torch.cat([
                self._rows(g, r, size)
                for g, r in zip(grads.values(), routes.values(), strict=True)
            ], 1)
        self._advance()

    def _rows(self, grad: torch.Tensor, route: Route,
              size: int) -> torch.Tensor:
        """One row for each rank that gets a part."""
        assert route.scatter is not None
        dim, shape = route.scatter.source.dim, list(grad.shape)
        shape[dim] //= size
        self.shapes.append(torch.Size(shape))
        if dim > 0:
            split = (*shape[:dim], size, *shape[dim:])
            grad = grad.reshape(split).movedim(dim, 0)
        return grad.reshape(size, -1)

    def _advance(self) -> None:
        """Start the next collective on the packed buffer."""
        step = self.todo.pop(0)
        group = self.groups.groups[step.axis]
        self.watched = Watched(_WHAT, group)
        with self.watched:
            self._start(step, group)

    def _start(self, step: Step, group: Any) -> None:
        if step.backward.kind == "all_reduce":
            self.work = dist.all_reduce(self.buffer,
                                        group=group,
                                        async_op=True)
            return
        size = self.groups.axes[step.axis].size
        out = self.buffer.new_empty(self.buffer.numel() // size)
        self.work = dist.reduce_scatter_single(out,
                                               self.buffer.view(-1),
                                               group=group,
                                               async_op=True)
        self.scattered, self.buffer = self.buffer, out

    def finish(self) -> list[tuple[str, torch.Tensor]]:
        """Wait, and give the gradients at rest by parameter."""
        self._wait()
        while self.todo:
            self._advance()
            self._wait()
        parts = self.buffer.view(-1).split([s.numel() for s in self.shapes])
        return [(n, p.view(s))
                for n, p, s in zip(self.names, parts, self.shapes, strict=True)
                ]

    def _wait(self) -> None:
        with self.watched:
            self.work.wait()
        self.work = None
        if self.scattered is not None:
            give_back(self.scattered)
            self.scattered = None
