"""Experts in a traced graph: products inside, and rows that are sent."""

from __future__ import annotations

import math

from torch import fx

from planner.cost.experts import COUNT_BYTES

__all__ = ["expert_exchanges", "expert_flops", "is_experts"]

_FORWARD = ("experts_forward", "experts_routed_forward")
_BACKWARD = ("experts_backward", "experts_routed_backward")
_AXES = {"experts_routed_forward": 12, "experts_routed_backward": 16}
_EXPERTS, _MOVED = 11, 15
_ROWS = 6


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    name = "" if schema is None else schema.name
    return name.removeprefix("scaletorch::") if name.startswith(
        "scaletorch::") else ""


def is_experts(node: fx.Node) -> bool:
    """Whether a node is a forward or backward of experts."""
    return _name(node) in _FORWARD + _BACKWARD


def _rows(node: fx.Node) -> tuple[int, int, int]:
    """Rows on this rank, their width, and bytes of a number."""
    if _name(node) in _FORWARD:
        rows = node.meta["val"][1]
    else:
        rows = node.args[_ROWS].meta["val"]
    return (*rows.shape, rows.element_size())


def expert_flops(node: fx.Node) -> float:
    """Of both products; the backward has two for each."""
    first = 3 if _name(node) in _FORWARD else 2
    gate_up, down = (node.args[first + i].meta["val"] for i in range(2))
    rows = _rows(node)[0]
    each = sum(math.prod(x.shape[1:]) for x in (gate_up, down))
    return 2.0 * rows * each * (1 if first == 3 else 2)


def expert_exchanges(node: fx.Node) -> list[tuple[str, int]]:
    """Axis and bytes of every exchange: of counts, of rows there and back,
    with their weights one way."""
    name = _name(node)
    if name not in _AXES:
        return []
    axes = list(node.args[_AXES[name]])
    rows, width, itemsize = _rows(node)
    each = [rows * width * itemsize, rows * (width + 1) * itemsize]
    if name in _FORWARD:
        moved = node.args[_MOVED]
        axes = [a for a, m in zip(axes, moved) if m]
        each.append(COUNT_BYTES * int(node.args[_EXPERTS]))
    return [(str(a), size_bytes) for a in axes for size_bytes in each]
