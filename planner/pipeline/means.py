"""Rewrite: a mean over tokens becomes a sum over a count.

Needs a captured program. Leaves cross entropies that divide by how many
tokens count as their sum, and the count as a value of its own, which
depends on nothing but the batch. So a step cut into micro-batches divides
by the count of the whole batch, which is known before its first one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from planner.ir.program import BlockClass, Program
from planner.rules.registry import TensorSpec

__all__ = ["count_ahead"]

_ATEN = torch.ops.aten
_NONE, _MEAN = 0, 1
_WITH_COUNT = (_ATEN.cross_entropy_loss.default, _ATEN.nll_loss.default,
               _ATEN.nll_loss_nd.default, _ATEN.nll_loss2d.default)
_REDUCTION, _IGNORE = 3, 4


def count_ahead(program: Program) -> Program:
    """The program with the counts of its mean losses split off."""
    classes = {n: _class(c) for n, c in program.classes.items()}
    if all(classes[n] is c for n, c in program.classes.items()):
        return program
    return dataclasses.replace(program, classes=classes)


def _class(cls: BlockClass) -> BlockClass:
    if not any(map(_counts, cls.calls)):
        return cls
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in cls.graph.nodes:
        if _counts(node):
            made[node] = _Divided(graph, node, made).build()
        else:
            made[node] = graph.node_copy(node, lambda n: made[n])
    return BlockClass(name=cls.name, graph=graph)


def _counts(node: fx.Node) -> bool:
    """Whether a call is a mean over the targets that are not ignored."""
    if node.target not in _WITH_COUNT:
        return False
    logits, target = node.args[:2]
    numbers = target.meta["spec"].ndim < logits.meta["spec"].ndim
    return numbers and _argument(node, _REDUCTION, "reduction", _MEAN) == _MEAN


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


class _Divided:
    """Builds sum(losses / count) in place of one mean."""

    def __init__(self, graph: fx.Graph, node: fx.Node,
                 made: dict[fx.Node, fx.Node]) -> None:
        self.graph, self.node = graph, node
        self.args = [
            made[a] if isinstance(a, fx.Node) else a for a in node.args
        ]
        self.kwargs = {
            k: made[a] if isinstance(a, fx.Node) else a
            for k, a in node.kwargs.items()
        }

    def build(self) -> fx.Node:
        loss: TensorSpec = self.node.meta["spec"]
        target = self.args[1].meta["spec"]
        each = dataclasses.replace(loss, shape=target.shape)
        count = self._count(target, loss)
        leading = [*self.args[:_REDUCTION], None][:_REDUCTION]
        args = [*leading, _NONE, *self.args[_REDUCTION + 1:]]
        kwargs = {k: v for k, v in self.kwargs.items() if k != "reduction"}
        losses = self._call(self.node.target, args, each, "", kwargs)
        parts = self._call(_ATEN.div.Tensor, [losses, count], each, ".share")
        return self._call(_ATEN.sum.default, [parts], loss, ".sum")

    def _count(self, target: TensorSpec, loss: TensorSpec) -> fx.Node:
        ignored = _argument(self.node, _IGNORE, "ignore_index", -100)
        number = TensorSpec(shape=(), dtype=torch.int64)
        flags = dataclasses.replace(target, dtype=torch.bool)
        kept = self._call(_ATEN.ne.Scalar, [self.args[1], ignored], flags,
                          ".kept")
        weight = (self.args[2]
                  if len(self.args) > 2 else self.kwargs.get("weight"))
        if weight is None:
            return self._call(_ATEN.sum.default, [kept], number, ".count")
        inside = self._call(_ATEN.mul.Tensor, [self.args[1], kept], target,
                            ".class")
        rows = TensorSpec(shape=target.shape, dtype=loss.dtype)
        weights = self._call(_ATEN.index.Tensor, [weight, [inside]], rows,
                             ".weight")
        counted = self._call(_ATEN.mul.Tensor, [weights, kept], rows,
                             ".counted")
        return self._call(_ATEN.sum.default, [counted],
                          TensorSpec(shape=(), dtype=loss.dtype), ".count")

    def _call(self,
              target: Any,
              args: list[Any],
              spec: TensorSpec,
              suffix: str,
              kwargs: dict[str, Any] | None = None) -> fx.Node:
        node = self.graph.call_function(target, tuple(args), kwargs or {})
        node.meta = {
            **self.node.meta, "spec": spec,
            "label": self.node.meta["label"] + suffix
        }
        node.meta.pop("val", None)
        return node
