"""Gradients of many micro-batches on their way into one reduction."""

from __future__ import annotations

import torch

from scaletorch.runtime.groups import Groups
from scaletorch.runtime.reduction import Reducer, Route

__all__ = ["Accumulator"]

_NARROW = (torch.bfloat16, torch.float16)


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
        self._sums: dict[Route, torch.Tensor] = {}
        self._dtypes: dict[Route, torch.dtype] = {}
        self._owned: set[Route] = set()

    def add(self, route: Route, grad: torch.Tensor) -> None:
        """Take one micro-batch's gradient."""
        if route not in self._sums:
            self._sums[route], self._dtypes[route] = grad, grad.dtype
        elif route in self._owned:
            self._sums[route].add_(grad)
        else:
            # The first gradient may be a view of something else.
            first = self._sums[route]
            wide = first.float() if first.dtype in _NARROW else first
            self._sums[route] = wide + grad
            self._owned.add(route)

    def finish(self) -> dict[str, torch.Tensor]:
        """Reduce; gradients at rest by parameter."""
        reducer = Reducer(self._groups, self._limit_bytes)
        for route, total in self._sums.items():
            reducer.add(route, total.to(self._dtypes[route]))
        found: dict[str, torch.Tensor] = {}
        for name, grad in reducer.finish():
            found[name] = found[name] + grad if name in found else grad
        self._sums, self._dtypes, self._owned = {}, {}, set()
        return found
