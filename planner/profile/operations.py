"""Kernels by name: how to run them, and the work that the planner sees.

Flops, bytes and launches of a measured kernel are those that
:func:`planner.cost.call_work.work` gives for the same call in a model, so
that what is fitted means the same as what is predicted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.cost.call_work import work
from planner.cost.work import Work
from planner.profile.point import Point
from planner.rules.registry import Arg, OpCall, TensorSpec

__all__ = ["OPERATIONS", "others_runner", "runner", "work_of"]

_ATEN = torch.ops.aten
_COLD_BYTES = 2**26
"""More than caches hold."""
_MOST_SETS = 16
Call = tuple[Any, tuple[Any, ...]]


class _Maker:
    """Makes operands on a device, in the dtype of a point."""

    def __init__(self, point: Point, device: torch.device) -> None:
        self.dtype = point.torch_dtype
        self.backward = point.backward
        self.device = device

    def __call__(self, *shape: int) -> torch.Tensor:
        made = torch.ones(shape, dtype=self.dtype, device=self.device)
        if not made.is_meta:
            # Zeros and ones draw less power than numbers do.
            made.uniform_(-1.0, 1.0)
        return made.requires_grad_(self.backward)

    def indices(self, count: int, limit: int) -> torch.Tensor:
        """Rows of a table, spread over it."""
        steps = torch.arange(count, device=self.device)
        return (steps * 7919) % limit


def _mm(point: Point, make: _Maker) -> Call:
    m, k, n = point.sizes
    left = make(k, m).t() if point.variant[:1] == "t" else make(m, k)
    right = make(n, k).t() if point.variant[1:] == "t" else make(k, n)
    return _ATEN.mm.default, (left, right)


def _linear(point: Point, make: _Maker) -> Call:
    rows, inside, outside = point.sizes
    return _ATEN.linear.default, (make(rows, inside), make(outside, inside))


def _attention(point: Point, make: _Maker) -> Call:
    q, k, v = (make(*point.sizes) for _ in range(3))
    return (_ATEN.scaled_dot_product_attention.default, (q, k, v, None, 0.0,
                                                         True))


def _add(point: Point, make: _Maker) -> Call:
    return _ATEN.add.Tensor, (make(*point.sizes), make(*point.sizes))


def _gelu(point: Point, make: _Maker) -> Call:
    return _ATEN.gelu.default, (make(*point.sizes), )


def _silu(point: Point, make: _Maker) -> Call:
    return _ATEN.silu.default, (make(*point.sizes), )


def _softmax(point: Point, make: _Maker) -> Call:
    return _ATEN.softmax.int, (make(*point.sizes), -1)


def _copy(point: Point, make: _Maker) -> Call:
    return _ATEN.clone.default, (make(*point.sizes), )


def _layer_norm(point: Point, make: _Maker) -> Call:
    width = point.sizes[-1]
    return (_ATEN.layer_norm.default, (make(*point.sizes), [width],
                                       make(width), make(width)))


def _rms_norm(point: Point, make: _Maker) -> Call:
    width = point.sizes[-1]
    return (_ATEN.rms_norm.default, (make(*point.sizes), [width], make(width)))


def _embedding(point: Point, make: _Maker) -> Call:
    count, rows, width = point.sizes
    return (_ATEN.embedding.default, (make(rows,
                                           width), make.indices(count, rows)))


def _cross_entropy(point: Point, make: _Maker) -> Call:
    rows, classes = point.sizes
    return (_ATEN.cross_entropy_loss.default, (make(rows, classes),
                                               make.indices(rows, classes)))


OPERATIONS: Mapping[str, Callable[[Point, _Maker], Call]] = \
    MappingProxyType({
        "add": _add,
        "attention": _attention,
        "copy": _copy,
        "cross_entropy": _cross_entropy,
        "embedding": _embedding,
        "gelu": _gelu,
        "layer_norm": _layer_norm,
        "linear": _linear,
        "mm": _mm,
        "rms_norm": _rms_norm,
        "silu": _silu,
        "softmax": _softmax,
    })
"""How to call each kernel, by the kind of its points."""


def runner(point: Point, device: torch.device) -> Callable[[], Any]:
    """What runs a point's kernel once; its operands are made here.

    Several sets of operands take turns, as many as the caches do not hold:
    in a step, a kernel is called with tensors that others have made, and
    not with its own of just before.
    """
    runs = [_one_runner(point, device)]
    size = work_of(point).forward_bytes
    for _ in range(min(_COLD_BYTES // max(size, 1), _MOST_SETS)):
        runs.append(_one_runner(point, device))
    turns = itertools.cycle(runs)
    return lambda: next(turns)()


def others_runner(device: torch.device) -> Callable[[], Any]:
    """Small kernels of many kinds, as a step has them around each."""
    points = [Point(kind="mm", sizes=(64, 64, 64), variant="nn")]
    points += [
        Point(kind=kind, sizes=(64, 64))
        for kind in ("layer_norm", "add", "softmax", "copy", "gelu", "silu")
    ]
    runs = [_one_runner(p, device) for p in points]

    def others() -> None:
        for run in runs:
            run()

    return others


def _one_runner(point: Point, device: torch.device) -> Callable[[], Any]:
    target, args = OPERATIONS[point.kind](point, _Maker(point, device))
    if not point.backward:

        def forward() -> Any:
            with torch.no_grad():
                return target(*args)

        return forward
    result = target(*args)
    inputs = [
        x for x in args if isinstance(x, torch.Tensor) and x.requires_grad
    ]
    gradient = torch.ones_like(result)

    def backward() -> Any:
        return torch.autograd.grad(result, inputs, gradient, retain_graph=True)

    return backward


def work_of(point: Point) -> Work:
    """The work of a point's call, forward and backward."""
    target, args = OPERATIONS[point.kind](point,
                                          _Maker(point, torch.device("meta")))
    with torch.no_grad():
        result = target(*args)
    inputs: list[TensorSpec] = []

    def hide(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        inputs.append(_spec(leaf, leaf.requires_grad))
        return Arg(len(inputs) - 1)

    hidden = pytree.tree_map(hide, args)
    outputs = tuple(
        _spec(x, point.backward) for x in pytree.tree_leaves(result))
    return work(
        OpCall(target=target,
               args=hidden,
               kwargs={},
               inputs=tuple(inputs),
               outputs=outputs))


def _spec(tensor: torch.Tensor, requires_grad: bool) -> TensorSpec:
    return TensorSpec(shape=tuple(tensor.shape),
                      dtype=tensor.dtype,
                      requires_grad=requires_grad)
