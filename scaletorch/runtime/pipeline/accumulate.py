"""Gradients of many micro-batches on their way into one reduction.

The reduction may start before the step is over: those that travel in buckets
do, and nobody waits for them meanwhile. What goes alone is waited for at
once, and ranks that did so between two actions could wait for each other in
a circle, along the stages and across replicas; it goes in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from scaletorch.runtime.groups import Groups
from scaletorch.runtime.reduction import Reducer, Route

__all__ = ["Accumulator"]

_NARROW = (torch.bfloat16, torch.float16)


@dataclass(slots=True)
class _Sum:
    """Of one route's gradients; `alike` are the equal routes met so far."""

    alike: list[Route]
    total: torch.Tensor | None = None
    dtype: torch.dtype = torch.float32
    is_owned: bool = False

    def add(self, grad: torch.Tensor) -> None:
        if self.total is None:
            self.total, self.dtype = grad, grad.dtype
        elif self.is_owned:
            self.total.add_(grad)
        else:
            # The first gradient may be a view of something else.
            narrow = grad.dtype in _NARROW
            self.total = (self.total.float() if narrow else self.total) + grad
            self.is_owned = True

    def take(self) -> torch.Tensor:
        """The sum, which starts anew."""
        assert self.total is not None
        found = self.total.to(self.dtype)
        self.total, self.is_owned = None, False
        return found


class Accumulator:
    """Adds up local gradients; they are reduced once, in the end.

    Sums of narrow floating-point numbers are kept in float32, as a product
    over the whole batch would keep them.

    Parameters
    ----------
    groups : Groups
    limit_bytes : int
        Size of the reduction's buckets.
    """

    def __init__(self, groups: Groups, limit_bytes: int) -> None:
        self._groups = groups
        self._limit_bytes = limit_bytes
        self._sums: dict[Route, _Sum] = {}
        # A route's hash goes through all of its steps, and there is a
        # gradient of each parameter in every micro-batch.
        self._by_id: dict[int, _Sum] = {}
        self._early: Reducer | None = None

    def add(self, route: Route, grad: torch.Tensor) -> None:
        """Take one micro-batch's gradient."""
        found = self._by_id.get(id(route))
        (self._met(route) if found is None else found).add(grad)

    def _met(self, route: Route) -> _Sum:
        """The sum of a route, which is kept so that its id stays its own."""
        found = self._sums.setdefault(route, _Sum([]))
        found.alike.append(route)
        self._by_id[id(route)] = found
        return found

    def start(self) -> None:
        """Reduce what goes in buckets, to which nothing is added any more."""
        self._early = Reducer(self._groups, self._limit_bytes)
        for route, total in self._sums.items():
            if total.total is not None and route.packed is not None:
                self._early.add(route, total.take())
        self._early.send()

    def finish(self) -> dict[str, torch.Tensor]:
        """Reduce what is left; gradients at rest by parameter."""
        reducer = self._early or Reducer(self._groups, self._limit_bytes)
        self._early = None
        for route, total in self._sums.items():
            if total.total is not None:
                reducer.add(route, total.take())
        found: dict[str, torch.Tensor] = {}
        for name, grad in reducer.finish():
            found[name] = found[name] + grad if name in found else grad
        return found
