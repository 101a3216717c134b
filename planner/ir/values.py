"""Values of a block graph: which output of which node feeds an operand."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import fx
from torch.utils import _pytree as pytree

from planner.ir.program import value_kind
from planner.rules.registry import Arg, OpCall, TensorSpec

__all__ = [
    "Value", "call_of", "calls_of", "consumers_of", "operands_of",
    "is_getitem", "outputs_of", "value_of"
]


class Value(NamedTuple):
    """One tensor: output `index` of a node (0 for a single output)."""

    node: fx.Node
    index: int = 0  # type: ignore[assignment]

    @property
    def spec(self) -> TensorSpec:
        spec = self.node.meta["spec"]
        return spec[self.index] if isinstance(spec, tuple) else spec

    @property
    def label(self) -> str:
        """Stable name inside the class, ``LABEL`` or ``LABEL:INDEX``."""
        base = self.node.meta["label"]
        many = isinstance(self.node.meta["spec"], tuple)
        return f"{base}:{self.index}" if many else base

    @property
    def bound_kind(self) -> str:
        """What a placeholder stands for (see ``value_kind``), or ``value``.
        """
        if self.node.op != "placeholder":
            return "value"
        return value_kind(str(self.node.meta.get("bound", "")))

    def __str__(self) -> str:
        return self.label


def is_getitem(node: fx.Node) -> bool:
    """Whether a node only picks one output of another."""
    return node.op == "call_function" and node.target is operator.getitem


def value_of(node: fx.Node) -> Value:
    """The value a node stands for; picks are followed to their source."""
    if is_getitem(node):
        source, index = node.args
        return Value(source, index)
    return Value(node)


def operands_of(node: fx.Node) -> tuple[Value, ...]:
    """Tensor operands in the order of the call's ``Arg`` numbers."""
    return tuple(map(value_of, _nodes_in((node.args, node.kwargs))))


def _nodes_in(arg: Any) -> Iterator[fx.Node]:
    """As pytree has them, at a fraction of its time."""
    if isinstance(arg, fx.Node):
        yield arg
    elif isinstance(arg, (tuple, list)):
        for part in arg:
            yield from _nodes_in(part)
    elif isinstance(arg, dict):
        yield from _nodes_in(tuple(arg.values()))


def outputs_of(node: fx.Node) -> tuple[Value, ...]:
    """Tensor outputs in order; positions without a tensor are skipped."""
    spec = node.meta["spec"]
    if isinstance(spec, tuple):
        return tuple(
            Value(node, i) for i, s in enumerate(spec) if s is not None)
    return (Value(node), ) if spec is not None else ()


def call_of(node: fx.Node) -> OpCall:
    """The node's call with its tensors taken out."""
    counter = iter(range(len(node.all_input_nodes) * 8 + 64))

    def hide(leaf: Any) -> Any:
        return Arg(next(counter)) if isinstance(leaf, fx.Node) else leaf

    args, kwargs = pytree.tree_map(hide, (node.args, node.kwargs))
    return OpCall(target=node.target,
                  args=tuple(args),
                  kwargs=dict(kwargs),
                  inputs=tuple(v.spec for v in operands_of(node)),
                  outputs=tuple(v.spec for v in outputs_of(node)))


def calls_of(graph: fx.Graph) -> Iterator[fx.Node]:
    """Operator calls in order, without the picks of outputs."""
    for node in graph.nodes:
        if node.op == "call_function" and not is_getitem(node):
            yield node


def consumers_of(graph: fx.Graph) -> dict[Value, list[tuple[fx.Node, int]]]:
    """Every value to the (call, operand number) pairs that read it."""
    found: dict[Value, list[tuple[fx.Node, int]]] = {}
    for node in calls_of(graph):
        for number, value in enumerate(operands_of(node)):
            found.setdefault(value, []).append((node, number))
    return found
