"""Collectives of a graph as direct calls: started, and waited for later.

Torch's functional collectives copy their input and go through several
layers of dispatch; inside an eager kernel neither is needed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import fx

from scaletorch.runtime.lost import Watched

__all__ = ["GROUP_POSITION", "StartedCall", "is_overwritable", "wait"]

_OPS = torch.ops._c10d_functional
_REDUCE = {
    "sum": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "avg": dist.ReduceOp.AVG,
}

GROUP_POSITION = {
    _OPS.all_reduce.default: 2,
    _OPS.all_gather_into_tensor.default: 2,
    _OPS.reduce_scatter_tensor.default: 3,
    _OPS.all_to_all_single.default: 3,
}
"""Collectives, and where the group stands among their arguments."""

_ATEN = torch.ops.aten
_FRESH = frozenset({
    _ATEN.add.Tensor, _ATEN.addmm.default, _ATEN.amax.default,
    _ATEN.baddbmm.default, _ATEN.bmm.default, _ATEN.div.Tensor,
    _ATEN.embedding.default, _ATEN.embedding_dense_backward.default,
    _ATEN.masked_fill.Scalar, _ATEN.mm.default, _ATEN.mul.Tensor,
    _ATEN.sub.Tensor, _ATEN.sum.default, _ATEN.sum.dim_IntList,
    _ATEN.where.self
})
"""What gives new memory; other operators may return an operand itself."""

Started = tuple[torch.Tensor, Any, Watched]
"""The result that will be there, the work, and who watches it."""

_Running = tuple[torch.Tensor, Any]


def wait(started: Started) -> torch.Tensor:
    """The result of a started collective."""
    out, work, watched = started
    with watched:
        work.wait()
    return out


class StartedCall:
    """Starts one collective; called with its tensor only.

    Parameters
    ----------
    node : fx.Node
        A functional collective.
    group : ProcessGroup
    in_place : bool
        Whether an all-reduce may overwrite its operand.
    """

    def __init__(self, node: fx.Node, group: Any, *, in_place: bool) -> None:
        self.group = group
        self.watched = Watched("a collective of the model", group)
        self.in_place = in_place
        self.reduce = _REDUCE.get(node.args[1])
        self.size = group.size()
        self.splits = _splits(node)
        name = node.target._opname
        self.run = getattr(self, f"_{name}")
        # What fx prints in the code of a graph.
        self.__name__ = self.__qualname__ = f"start_{name}"
        self.__module__ = __name__

    def __call__(self, x: torch.Tensor) -> Started:
        x = x.contiguous()
        with self.watched:
            return (*self.run(x), self.watched)

    def _all_reduce(self, x: torch.Tensor) -> _Running:
        out = x if self.in_place else x.clone()
        return out, dist.all_reduce(out,
                                    op=self.reduce,
                                    group=self.group,
                                    async_op=True)

    def _all_gather_into_tensor(self, x: torch.Tensor) -> _Running:
        out = x.new_empty((x.shape[0] * self.size, *x.shape[1:]))
        return out, dist.all_gather_single(out,
                                           x,
                                           group=self.group,
                                           async_op=True)

    def _reduce_scatter_tensor(self, x: torch.Tensor) -> _Running:
        out = x.new_empty((x.shape[0] // self.size, *x.shape[1:]))
        return out, dist.reduce_scatter_single(out,
                                               x,
                                               op=self.reduce,
                                               group=self.group,
                                               async_op=True)

    def _all_to_all_single(self, x: torch.Tensor) -> _Running:
        out = torch.empty_like(x)
        takes, gives = self.splits
        return out, dist.all_to_all_single(out,
                                           x,
                                           takes,
                                           gives,
                                           group=self.group,
                                           async_op=True)


def _splits(node: fx.Node) -> tuple[list[int] | None, list[int] | None]:
    """What an exchange takes from and gives to each rank; None: alike."""
    if node.target is not _OPS.all_to_all_single.default:
        return None, None
    takes, gives = node.args[1:3]
    even = len({*takes, *gives}) == 1
    return (None, None) if even else (takes, gives)


def is_overwritable(node: fx.Node) -> bool:
    """Whether nobody but its one reader sees a node's memory."""
    while len(node.users) == 1 and node.op == "call_function":
        returns = _aliases(node)
        if returns is None:
            return False
        if not returns:
            return True
        node = returns
    return False


def _aliases(node: fx.Node) -> Any:
    """The operand that a node may be a view of; () if its memory is its
    own; None if unknown."""
    if node.target in _FRESH:
        return ()
    if node.target is torch.ops.aten.reshape.default:
        return node.args[0]
    schema = getattr(node.target, "_schema", None)
    is_view = schema is not None and len(
        schema.returns) == 1 and schema.returns[0].alias_info is not None
    return node.args[0] if is_view else None
