"""Products whose features are cut into parts."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

import planner.ops  # noqa: F401 (registers the operator)
from planner.ir.layout import S
from planner.rules.factors import (broadcast_letters, einsum_options, number,
                                   place)
from planner.rules.registry import OpCall, Option, register

__all__ = ["split_linear"]


@register(torch.ops.scaletorch.split_linear.default)
def split_linear(call: OpCall) -> Iterable[Option]:
    """As a linear product, but the features are sharded part by part."""
    bias, sizes, out_dim = number(call.args[2]), call.args[3], call.args[4]
    lead = broadcast_letters(call.inputs[0].ndim - 1, call.inputs[0].ndim - 1)
    weight = "nk" if out_dim == 0 else "kn"
    yield place(call, {
        1: S(out_dim, sizes),
        bias: S(0, sizes)
    },
                S(call.inputs[0].ndim - 1),
                units=math.gcd(*sizes))
    yield from einsum_options(call,
                              f"{lead}k,{weight}->{lead}n",
                              operands=(0, 1),
                              added={bias: "n"},
                              only=f"{lead}k")
