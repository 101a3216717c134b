"""Sums and means of rows under a mask, without choosing them.

``(x[mask] - y[mask]).square().mean()`` is the sum of all rows in which those
that are not chosen count as zero, over the number of those that are: its
shapes are known, and it can be divided. What is computed of the rows on the
way must have finite derivatives at zero, which stands for the others. So a
target may have none (NaN) where it is not chosen.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from planner.capture.calls import add_call, become
from planner.capture.masked_loss import chosen_rows, same_values

__all__ = ["sum_all_rows"]

_aten = torch.ops.aten
_NONE, _MEAN = 0, 1
_Make = Callable[[], fx.Node]
_NARROW = (torch.float16, torch.bfloat16)

_BY_ELEMENT = frozenset(
    getattr(_aten, name)
    for name in ("abs add clamp clamp_max clamp_min detach elu gelu hardtanh "
                 "leaky_relu maximum minimum mul neg relu rsub sigmoid silu "
                 "sin softplus square sub tanh _to_copy").split())
"""With finite values and derivatives wherever the operands are finite."""

_WITHIN_ROWS = (_aten.sum.dim_IntList, _aten.mean.dim)

_LOSSES = {
    _aten.mse_loss.default: 2,
    _aten.l1_loss.default: 2,
    _aten.smooth_l1_loss.default: 2,
    _aten.huber_loss.default: 2,
    _aten.binary_cross_entropy_with_logits.default: 4
}
"""Losses by element, and where their reduction stands."""


def sum_all_rows(graph: fx.Graph) -> None:
    """Rewrite such sums, means and losses in place."""
    for node in list(graph.nodes):
        rows = _Rows(node)
        if node.target in (_aten.sum.default, _aten.mean.default):
            is_mean = node.target is _aten.mean.default
            value = rows.lifted(node.args[0])
        elif node.target in _LOSSES and _reduction(node) != _NONE:
            is_mean = _reduction(node) == _MEAN
            value = rows.loss()
        else:
            continue
        if value is not None:
            _become_sum(node, rows, value(), is_mean=is_mean)


def _become_sum(node: fx.Node, rows: _Rows, value: fx.Node, *,
                is_mean: bool) -> None:
    found, dtype = value.meta["val"], node.meta["val"].dtype
    kept = rows.add(_aten.where.self, rows.wide(found.ndim), value,
                    rows.add(_aten.zeros_like.default, value))
    # Sums of narrow numbers are kept in float32 until they are divided.
    wide = torch.float32 if dtype in _NARROW else dtype
    total = rows.add(_aten.sum.default, kept, dtype=wide)
    if is_mean:
        width = math.prod(found.shape[rows.mask.meta["val"].ndim:])
        count = rows.add(_aten.sum.default, rows.mask)
        total = rows.add(_aten.div.Tensor, total,
                         rows.add(_aten.mul.Tensor, count, width))
    become(node, _aten._to_copy.default, (total, ), {"dtype": dtype})


def _reduction(node: fx.Node) -> int:
    place = _LOSSES[node.target]
    given = node.args[place] if len(node.args) > place else _MEAN
    return int(node.kwargs.get("reduction", given))


@dataclass(slots=True)
class _Rows:
    """The rows that one mask chooses, on their way to a reduction.

    What is lifted is a function that adds the calls for all rows: none are
    added before all of the way is known to be liftable.
    """

    node: fx.Node
    mask: Any = None
    made: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def add(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        graph = self.node.graph
        with graph.inserting_before(self.node):
            return add_call(graph, target, args, kwargs, like=self.node)

    def wide(self, ndim: int) -> fx.Node:
        """The mask beside a value of so many dims."""
        mask: fx.Node = self.mask
        for _ in range(ndim - mask.meta["val"].ndim):
            mask = self.add(_aten.unsqueeze.default, mask, -1)
        return mask

    def loss(self) -> _Make | None:
        """A loss of the rows, by element."""
        place = _LOSSES[self.node.target]
        given = [*self.node.args, *[None] * place][:place]
        kwargs = {
            k: v
            for k, v in self.node.kwargs.items() if k != "reduction"
        }
        return self._call(self.node,
                          [*given, _NONE, *self.node.args[place + 1:]], kwargs)

    def lifted(self, value: Any) -> _Make | None:
        """A value made of chosen rows, for all rows; None: it is not."""
        if not _is_of_rows(value) or value.op != "call_function":
            return None
        value = _before_broadcast(value)
        found = _chosen(value)
        if found is not None:
            return self._base(value, *found)
        args = value.args
        if value.target in _WITHIN_ROWS:
            args = _counted_from_behind(args)
        elif not _is_by_element(value):
            return None
        return args and self._call(value, args, value.kwargs)

    def _base(self, value: fx.Node, base: fx.Node,
              mask: fx.Node) -> _Make | None:
        shape = mask.meta["val"].shape
        if _is_of_rows(base) or base.meta["val"].shape[:len(shape)] != shape \
                or self.mask is not None and not same_values(mask, self.mask):
            return None
        self.mask = self.mask or mask

        def make() -> fx.Node:
            whole = self.wide(base.meta["val"].ndim)
            return self.add(_aten.where.self, whole, base,
                            self.add(_aten.zeros_like.default, base))

        return self._once(value, make)

    def _call(self, value: fx.Node, args: Sequence[Any],
              kwargs: Mapping[str, Any]) -> _Make | None:
        """An operator of rows, numbers, and what all rows share."""
        ndims = {a.meta["val"].ndim for a in args if _is_of_rows(a)}
        nodes = [a for a in args if isinstance(a, fx.Node)]
        shared = (a.meta["val"].ndim for a in nodes if not _is_of_rows(a))
        if len(ndims) != 1 or any(n and n >= min(ndims) for n in shared) \
                or any(isinstance(x, fx.Node) for x in kwargs.values()):
            return None
        parts: dict[fx.Node, _Make] = {}
        for arg in filter(_is_of_rows, nodes):
            part = self.lifted(arg)
            if part is None:
                return None
            parts[arg] = part

        def make() -> fx.Node:
            given = [
                parts[a]() if isinstance(a, fx.Node) and a in parts else a
                for a in args
            ]
            return self.add(value.target, *given, **kwargs)

        return self._once(value, make)

    def _once(self, value: fx.Node, make: _Make) -> _Make:

        def made() -> fx.Node:
            if value not in self.made:
                self.made[value] = make()
            return self.made[value]

        return made


def _chosen(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The tensor and the mask in ``x[mask]`` or a ``masked_select``."""
    if node.target is not _aten.masked_select.default:
        return chosen_rows(node)
    base, mask = node.args
    same = base.meta["val"].shape == mask.meta["val"].shape
    return (base, mask) if same else None


def _before_broadcast(node: fx.Node) -> fx.Node:
    """Losses make their operands of one shape, which rows mostly are."""
    if node.target is not operator.getitem:
        return node
    source, number = node.args
    if source.target is not _aten.broadcast_tensors.default:
        return node
    same = all(
        _is_of_rows(x)
        and x.meta["val"].shape[1:] == node.meta["val"].shape[1:]
        for x in source.args[0])
    return source.args[0][number] if same else node


def _is_of_rows(value: Any) -> bool:
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return isinstance(found, torch.Tensor) and not all(
        isinstance(size, int) for size in found.shape)


def _is_by_element(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    if packet is _aten.div:
        return not _is_of_rows(node.args[1])
    if packet is _aten.pow:
        return isinstance(node.args[1], (int, float)) and node.args[1] >= 1
    return packet in _BY_ELEMENT


def _counted_from_behind(args: Sequence[Any]) -> tuple[Any, ...]:
    """Of a reduction inside of each row; nothing where it is none."""
    value, dims, *rest = args
    ndim = value.meta["val"].ndim
    places = [d % ndim for d in dims or ()]
    if not places or 0 in places:
        return ()
    return value, [d - ndim for d in places], *rest
