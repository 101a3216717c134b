"""Flops of one kernel of a traced graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from planner.cost.expert_kernels import expert_flops, is_experts
from planner.cost.opaque import BACKWARD_RUNS

__all__ = ["kernel_flops"]

_COMPOSITE = frozenset(
    "linear matmul einsum conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d scaled_dot_product_attention".split())


def kernel_flops(node: fx.Node) -> tuple[float, str]:
    """Flops of a kernel's products, and the efficiency they have.

    PyTorch's flop counter has the formulas, save for attention, where
    what a causal mask removes is not counted, for the backward of grouped
    convolutions, which it counts once per group, and for grouped products.

    Raises
    ------
    ValueError
        For composite operators: a traced graph has their kernels instead.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return 0.0, "memory"
    name = schema.name.removeprefix("aten::")
    if name in _COMPOSITE:
        raise ValueError(f"{node.name} is the composite {node.target}, which "
                         "has no kernel of its own; trace the program with "
                         "make_fx before pricing it")
    if name.startswith("_scaled_dot_product_"):
        return _attention_flops(node, backward="backward" in name), "attention"
    if name == "convolution_backward":
        return _convolution_backward_flops(node), "convolution"
    if is_experts(node):
        return expert_flops(node), "matmul"
    if name == "_grouped_mm":
        return _grouped_flops(node), "matmul"
    if name == "scaletorch::opaque":
        return float(node.args[3]), "matmul"
    if name == "scaletorch::opaque_backward":
        flops = BACKWARD_RUNS * float(node.args[5])
        return flops, "matmul"
    formula = flop_registry.get(node.target.overloadpacket)
    if formula is None:
        return 0.0, "memory"
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), _value)
    kind = "convolution" if "conv" in name else "matmul"
    return float(formula(*args, out_val=node.meta["val"], **kwargs)), kind


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _argument(node: fx.Node, name: str) -> Any:
    """The argument called `name`, as the schema counts; None if not given."""
    if name in node.kwargs:
        return node.kwargs[name]
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name == name and position < len(node.args):
            return node.args[position]
    return None


def _attention_flops(node: fx.Node, *, backward: bool) -> float:
    """2 products forward, 5 backward (the scores are computed again)."""
    first = 1 if backward else 0
    q, k, v = (tuple(_value(node.args[first + i]).shape) for i in range(3))
    queries, keys = q[-2], k[-2]
    pairs = float(queries * keys)
    if _argument(node, "is_causal"):
        # Query i sees keys 0..i; queries beyond the last key see all.
        seen = min(queries, keys)
        pairs = seen * (seen + 1) / 2 + max(queries - keys, 0) * keys
    width = 3 * q[-1] + 2 * v[-1] if backward else q[-1] + v[-1]
    return 2.0 * math.prod(q[:-2]) * pairs * width


def _convolution_backward_flops(node: fx.Node) -> float:
    """Each gradient costs what the forward costs."""
    grad, x, weight = (_value(node.args[i]) for i in range(3))
    positions = x if _argument(node, "transposed") else grad
    each = 2.0 * positions.numel() * weight.numel() / weight.shape[0]
    return each * sum(_argument(node, "output_mask")[:2])


def _grouped_flops(node: fx.Node) -> float:
    """A product per group; the groups' sizes add up to one ragged dim."""
    left: torch.Tensor = _value(node.args[0])
    right: torch.Tensor = _value(node.args[1])
    if left.ndim == 3 and right.ndim == 2:
        return 2.0 * right.numel() * left.shape[-2]
    return 2.0 * left.numel() * right.shape[-1]
