"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.rules.factors import broadcast_letters, einsum_options, number
from planner.rules.registry import OpCall, Option, register

__all__ = ["einsum", "linear", "matmul", "plus_product", "product"]

aten = torch.ops.aten

_PRODUCTS = {
    aten.mm.default: "mk,kn->mn",
    aten.bmm.default: "bmk,bkn->bmn",
    aten.mv.default: "mk,k->m",
    aten.dot.default: "k,k->",
    aten.inner.default: "k,k->",
    aten.outer.default: "m,n->mn",
    aten.ger.default: "m,n->mn",
}
_PLUS_PRODUCTS = {
    aten.addmm.default: "mk,kn->mn",
    aten.baddbmm.default: "bmk,bkn->bmn",
    aten.addmv.default: "mk,k->m",
    aten.addbmm.default: "bmk,bkn->mn",
}


@register(aten.linear.default)
def linear(call: OpCall) -> Iterable[Option]:
    """``x @ weight.T + bias`` over any leading dims."""
    bias = number(call.arg(2, "bias"))
    lead = broadcast_letters(call.inputs[0].ndim - 1, call.inputs[0].ndim - 1)
    weight = "nk" if call.inputs[1].ndim == 2 else "k"
    yield from einsum_options(call,
                              f"{lead}k,{weight}->{lead}{weight[:-1]}",
                              operands=(0, 1),
                              added={bias: weight[:-1]},
                              added_lowering="linear_row_bias")


@register(aten.matmul.default)
def matmul(call: OpCall) -> Iterable[Option]:
    """Product of vectors, matrices or broadcast batches of them."""
    a, b = call.inputs
    if a.ndim == 0 or b.ndim == 0:
        return ()
    batch = max(a.ndim, b.ndim) - 2
    left = broadcast_letters(max(a.ndim - 2, 0), max(batch, 0))
    right = broadcast_letters(max(b.ndim - 2, 0), max(batch, 0))
    rows, columns = "m" * (a.ndim > 1), "n" * (b.ndim > 1)
    lead = left if len(left) > len(right) else right
    return einsum_options(
        call, f"{left}{rows}k,{right}k{columns}->{lead}{rows}{columns}")


@register(*_PRODUCTS)
def product(call: OpCall) -> Iterable[Option]:
    """A product of two operands."""
    if any(
            len(t) != s.ndim
            for t, s in zip(_PRODUCTS[call.target].split("->")[0].split(","),
                            call.inputs,
                            strict=True)):
        return ()
    return einsum_options(call, _PRODUCTS[call.target])


@register(*_PLUS_PRODUCTS)
def plus_product(call: OpCall) -> Iterable[Option]:
    """A product added to a broadcast first input."""
    equation = _PLUS_PRODUCTS[call.target]
    output = equation.split("->")[1]
    first = call.inputs[0].ndim
    yield from einsum_options(call,
                              equation,
                              operands=(1, 2),
                              added={0: output[len(output) - first:]})


@register(aten.einsum.default)
def einsum(call: OpCall) -> Iterable[Option]:
    """An explicit equation without diagonals."""
    equation = str(call.args[0]).replace(" ", "")
    if "->" not in equation:
        return ()
    left, output = equation.split("->")
    extra = [
        s.ndim - len(t.replace("...", ""))
        for t, s in zip(left.split(","), call.inputs, strict=True)
    ]
    most = max(extra)
    # Capitals: an equation's own letters are lower case by custom, and
    # one that has capitals beside an ellipsis is left alone.
    dots = "ABCDEFGH"[:most]
    if "..." in equation and equation != equation.lower():
        return ()
    terms = [
        t.replace("...", dots[most - n:])
        for t, n in zip(left.split(","), extra, strict=True)
    ]
    if any(len(set(t)) != len(t) for t in terms):
        return ()
    output = output.replace("...", dots)
    return einsum_options(call, f"{','.join(terms)}->{output}")
