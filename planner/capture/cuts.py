"""How the features of a product are cut: through views to the parts.

Between a product and where it is cut, its features may be viewed as
several dims and these be moved: ``view(..., 3, heads, size)``, ``permute``
and ``unbind``. A cut is of use where it takes a run of the features, so
along the first of the dims that they are viewed as.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from planner.capture.nodes import op_label

__all__ = ["Cut", "find_cuts"]

_ONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One node that holds a run of a product's features.

    Parameters
    ----------
    node : fx.Node
    start, end : int
        The features.
    shape : list of int
        The run of features viewed, dims in their order.
    order : list of int
        How these dims are permuted; dims of one element may then be added.
    is_dense : bool
        Whether a copy was made on the way.
    passed : tuple of Node
        Between the product and the node.
    """

    node: fx.Node
    start: int
    end: int
    shape: list[int]
    order: list[int]
    is_dense: bool
    passed: tuple[fx.Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The product as a node on the way shows it.

    `shape` is what the product was viewed as, `features` the first of its
    dims that are features, and `dims` says for each of the node's dims
    which one it is, or that it is one of one element.
    """

    node: fx.Node
    shape: tuple[int, ...]
    features: int
    dims: tuple[int, ...]
    is_dense: bool = False
    passed: tuple[fx.Node, ...] = ()

    def at(self, node: fx.Node, **changes: Any) -> _Seen:
        return replace(self,
                       node=node,
                       passed=(*self.passed, self.node),
                       **changes)

    def dim(self, number: int) -> int:
        return number % len(self.dims)


def find_cuts(product: fx.Node) -> list[Cut] | None:
    """All that reads a product; None where something else than cuts does.

    Parameters
    ----------
    product : fx.Node
        Its last dim holds the features.
    """
    shape = tuple(product.meta["val"].shape)
    cuts: list[Cut] = []
    todo = [
        _Seen(node=product,
              shape=shape,
              features=len(shape) - 1,
              dims=tuple(range(len(shape))))
    ]
    while todo:
        seen = todo.pop(0)
        for user in seen.node.users:
            name = op_label(user)
            if name in _CUTS:
                found = _CUTS[name](seen, user)
                if found is None:
                    return None
                cuts += found
                continue
            step = _STEPS[name](seen, user) if name in _STEPS else None
            if step is None:
                return None
            todo.append(step)
    return cuts


def _view(seen: _Seen, user: fx.Node) -> _Seen | None:
    if seen.dims != tuple(range(len(seen.shape))):
        return None
    shape = tuple(user.meta["val"].shape)
    width = math.prod(seen.shape[seen.features:])
    features = len(shape)
    while features > 0 and math.prod(shape[features:]) < width:
        features -= 1
    if math.prod(shape[features:]) != width or features == len(shape):
        return None
    return seen.at(user,
                   shape=shape,
                   features=features,
                   dims=tuple(range(len(shape))))


def _permute(seen: _Seen, user: fx.Node) -> _Seen:
    order: Any = user.args[1]
    return seen.at(user, dims=tuple(seen.dims[seen.dim(d)] for d in order))


def _transpose(seen: _Seen, user: fx.Node) -> _Seen:
    a, b = (seen.dim(d) for d in user.args[1:3])
    dims = list(seen.dims)
    dims[a], dims[b] = dims[b], dims[a]
    return seen.at(user, dims=tuple(dims))


def _unsqueeze(seen: _Seen, user: fx.Node) -> _Seen:
    place = user.args[1] % (len(seen.dims) + 1)
    return seen.at(user, dims=(*seen.dims[:place], _ONE, *seen.dims[place:]))


def _squeeze(seen: _Seen, user: fx.Node) -> _Seen | None:
    named: Any = user.args[1]
    gone = [
        seen.dim(d)
        for d in (named if isinstance(named, (list, tuple)) else (named, ))
    ]
    if any(seen.dims[d] != _ONE for d in gone):
        return None
    return seen.at(user,
                   dims=tuple(d for i, d in enumerate(seen.dims)
                              if i not in gone))


def _clone(seen: _Seen, user: fx.Node) -> _Seen:
    return seen.at(user, is_dense=True)


_STEPS: dict[str, Callable[[_Seen, fx.Node], _Seen | None]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unflatten"), _view),
    "permute":
    _permute,
    "transpose":
    _transpose,
    "unsqueeze":
    _unsqueeze,
    "squeeze":
    _squeeze,
    "clone":
    _clone,
}


def _run(seen: _Seen,
         node: fx.Node,
         dim: int,
         start: int,
         end: int,
         *,
         drops: bool = False) -> Cut | None:
    """Elements of a dim as a run of features, if the dim is their first."""
    if seen.dims[dim] != seen.features:
        return None
    shape = list(seen.shape)
    inner = math.prod(shape[seen.features + 1:])
    shape[seen.features] = end - start
    order = [d for i, d in enumerate(seen.dims) if d != _ONE]
    if drops:
        del shape[seen.features]
        order = [d - (d > seen.features) for d in order if d != seen.features]
    return Cut(node=node,
               start=start * inner,
               end=end * inner,
               shape=shape,
               order=order,
               is_dense=seen.is_dense,
               passed=(*seen.passed, seen.node))


def _picks(seen: _Seen,
           user: fx.Node,
           dim: int,
           bounds: list[tuple[int, int]],
           *,
           drops: bool = False) -> list[Cut] | None:
    """What is picked of a call that gives all parts."""
    found = []
    for pick in user.users:
        if pick.target is not operator.getitem:
            return None
        start, end = bounds[pick.args[1]]
        cut = _run(seen, pick, dim, start, end, drops=drops)
        if cut is None:
            return None
        found.append(cut)
    return found


def _split(seen: _Seen, user: fx.Node) -> list[Cut] | None:
    dim = seen.dim(_argument(user, 2, "dim", 0))
    values = user.meta["val"]
    bounds, start = [], 0
    for value in values:
        bounds.append((start, start + value.shape[dim]))
        start = bounds[-1][1]
    return _picks(seen, user, dim, bounds)


def _unbind(seen: _Seen, user: fx.Node) -> list[Cut] | None:
    dim = seen.dim(_argument(user, 1, "dim", 0))
    bounds = [(i, i + 1) for i in range(len(user.meta["val"]))]
    return _picks(seen, user, dim, bounds, drops=True)


def _select(seen: _Seen, user: fx.Node) -> list[Cut] | None:
    dim, index = seen.dim(user.args[1]), user.args[2]
    index %= seen.node.meta["val"].shape[dim]
    found = _run(seen, user, dim, index, index + 1, drops=True)
    return None if found is None else [found]


def _slice(seen: _Seen, user: fx.Node) -> list[Cut] | None:
    dim = seen.dim(_argument(user, 1, "dim", 0))
    if _argument(user, 4, "step", 1) != 1:
        return None
    start = _argument(user, 2, "start", None) or 0
    length = seen.node.meta["val"].shape[dim]
    start = max(start + length, 0) if start < 0 else min(start, length)
    end = start + user.meta["val"].shape[dim]
    found = _run(seen, user, dim, start, end)
    return None if found is None or start == end else [found]


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


_CUTS: dict[str, Callable[[_Seen, fx.Node], list[Cut] | None]] = {
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk"), _split),
    "unbind":
    _unbind,
    "select":
    _select,
    "slice":
    _slice,
}
