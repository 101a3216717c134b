"""Matmul-like work of one forward call: what is multiplied with what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from planner.rules.registry import Arg, OpCall

__all__ = [
    "Contraction", "attention_flops", "attention_keys", "causal_share",
    "contraction", "op_name"
]


def op_name(target: Any) -> str:
    """The operator's name without name space and overload."""
    return str(target._schema.name).split("::")[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """A product that sums over shared dims.

    Parameters
    ----------
    flops : int
        Of the product, two per multiplication and addition. The gradient
        of each operand costs the same.
    operands : tuple of int
        Which of the call's tensor inputs are multiplied.
    kind : str
        The efficiency coefficient that applies.
    """

    flops: int
    operands: tuple[int, ...]
    kind: str = "matmul"


def _operands(*args: Any) -> tuple[int, ...]:
    return tuple(arg.index for arg in args if isinstance(arg, Arg))


def _product(call: OpCall, first: int) -> Contraction:
    """Arguments `first` and the next, summed over the first's last dim."""
    operands = _operands(*call.args[first:first + 2])
    summed = call.inputs[operands[0]].shape[-1]
    return Contraction(flops=2 * call.outputs[0].numel * summed,
                       operands=operands)


def _matmul(call: OpCall) -> Contraction:
    return _product(call, 0)


def _addmm(call: OpCall) -> Contraction:
    return _product(call, 1)


def _split_linear(call: OpCall) -> Contraction:
    product = _product(call, 0)
    first, *_ = sizes = call.args[3]
    return replace(product, flops=product.flops // first * sum(sizes))


def _conv(call: OpCall) -> Contraction:
    x, w = operands = _operands(*call.args[:2])
    weight = call.inputs[w]
    name = op_name(call.target)
    transposed = "transpose" in name or (name == "convolution"
                                         and bool(call.arg(6, "transposed")))
    # Each weight of one out channel (one in channel, if transposed) meets
    # every position of the output (of the input).
    positions = call.inputs[x] if transposed else call.outputs[0]
    per_channel = weight.numel // max(weight.shape[0], 1)
    return Contraction(flops=2 * positions.numel * per_channel,
                       operands=operands,
                       kind="convolution")


def _einsum(call: OpCall) -> Contraction:
    operands = _operands(*call.args[1])
    equation = str(call.args[0]).replace(" ", "")
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    for term, index in zip(left.split(","), operands, strict=True):
        shape = call.inputs[index].shape
        head, dots, tail = term.partition("...")
        sizes.update(zip(head, shape))
        if dots:
            sizes.update(zip(tail, shape[len(shape) - len(tail):]))
    summed = math.prod(n for name, n in sizes.items() if name not in right)
    products = max(len(operands) - 1, 1)
    return Contraction(flops=2 * products * call.outputs[0].numel * summed,
                       operands=operands)


_CONTRACTIONS: dict[str, Callable[[OpCall], Contraction]] = {
    **dict.fromkeys(("linear", "mm", "bmm", "matmul", "mv", "dot", "_grouped_mm", "grouped_mm"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _addmm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv),
    "einsum":
    _einsum,
    "split_linear":
    _split_linear,
}


def contraction(call: OpCall) -> Contraction | None:
    """What `call` multiplies, or None when it is no product."""
    build = _CONTRACTIONS.get(op_name(call.target))
    return build(call) if build else None


def causal_share(queries: int, keys: int) -> float:
    """Share of the query-key pairs that a causal mask keeps.

    The mask is torch's: aligned at the top left, query i sees keys 0..i.

    Examples
    --------
    >>> causal_share(2, 2)
    0.75
    """
    full = max(queries - keys, 0)
    triangle = min(queries, keys)
    kept = triangle * (triangle + 1) // 2 + full * keys
    return kept / max(queries * keys, 1)


def attention_keys(call: OpCall) -> float:
    """How many keys a query of scaled_dot_product_attention meets, in the
    mean."""
    q, k = (call.inputs[i].shape for i in _operands(*call.args[:2]))
    causal = call.arg(5, "is_causal", False)
    return float(k[-2] * (causal_share(q[-2], k[-2]) if causal else 1.0))


def attention_flops(call: OpCall) -> tuple[float, float]:
    """Forward and backward flops of scaled_dot_product_attention.

    As kernels compute it that never store the scores: the backward
    computes them again (5 products, forward 2), and a causal kernel skips
    what is masked.
    """
    q, _, v = (call.inputs[i].shape for i in _operands(*call.args[:3]))
    pairs = math.prod(q[:-1]) * attention_keys(call)
    return (2 * pairs * (q[-1] + v[-1]), 2 * pairs * (3 * q[-1] + 2 * v[-1]))
