"""Attention and the norms around it, by formulas of the local sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.operators import (ELEMENT_BYTES, Operator,
                                             elementwise, halvings, linear)
from planner.cost.analytic.transformer import Transformer

__all__ = ["attention", "attention_core"]

Number = Any
_ALIGNED = 3
"""Halvings of 64 that leave 8 elements, 16 bytes."""


def attention(model: Transformer, plan: Configurations) -> list[Operator]:
    tokens = model.layer_tokens(plan.tokens(model.seq))
    share = 1 + model.cross_layers / model.layers
    qkv = model.qkv_parameters * share / plan.tp
    out = model.out_parameters * share / plan.tp
    return [
        linear("qkv", tokens, qkv, model.hidden + qkv / model.hidden, plan,
               model.heads * model.qk_dim / plan.tp, model.hidden),
        *attention_core(model, plan),
        linear("attention output", tokens, out,
               model.hidden + out / model.hidden, plan,
               model.heads * model.v_dim / plan.tp, out / model.hidden),
        *_norms(model, plan),
    ]


def attention_core(model: Transformer, plan: Configurations) -> list[Operator]:
    """Scores, softmax and values: one kernel, or five."""
    heads = model.heads / plan.tp
    rows = model.layer_tokens(plan.tokens(model.seq)) * heads
    width = model.qk_dim + model.v_dim
    masked = np.where(model.causal, 0.5, 1.0)
    keys = masked * model.seq / plan.cp
    attended = masked * model.attended
    fused = np.asarray(plan.fused_attention, dtype=float)
    products = 2 * rows * model.seq * width
    scores = rows * model.seq
    operands = ELEMENT_BYTES * rows * 2 * width
    one = _fused_softmax(plan, heads)
    halved = halvings(model.qk_dim)
    unaligned = np.greater(halved, _ALIGNED)
    eager = np.asarray(plan.fused_kernels, dtype=bool) & ~one
    return [
        Operator(name="fused attention",
                 kind="attention",
                 flops=fused * products * attended,
                 size_bytes=fused * operands,
                 kernels=fused,
                 backward_flops=fused * products * attended * 2.5,
                 keys=keys,
                 head_width=width / 2),
        Operator(name="score and value products",
                 kind="matmul",
                 flops=(1 - fused) * products,
                 size_bytes=(1 - fused) *
                 (operands + ELEMENT_BYTES * 2 * scores),
                 kernels=(1 - fused) * 2,
                 halvings=np.where(unaligned, 0, halved),
                 unaligned=unaligned),
        # Scale, mask and softmax in one, then dropout with a mask of bytes;
        # else each by itself, in 32 bits.
        elementwise("softmax and dropout", (1 - fused) * scores,
                    np.where(one | ~eager, 4.5, 21),
                    (1 - fused) * np.where(one, 2, np.where(eager, 7, 5))),
    ]


def _fused_softmax(plan: Configurations, heads: Number) -> Number:
    """Whether scores are masked and normalised by one kernel: Megatron's
    takes four rows of scores of as many heads and sequences at a time. A
    part of a head can't be told."""
    whole = np.equal(plan.micro_batch * heads % 4, 0) | (heads % 1 > 0)
    return np.asarray(plan.fused_kernels, dtype=bool) & whole


def _norms(model: Transformer, plan: Configurations) -> list[Operator]:
    """Two norms, two residuals with dropout, and the layout of heads."""
    elements = model.layer_tokens(plan.tokens(
        model.seq)) * model.hidden / plan.stored_tp
    own = model.layer_tokens(plan.tokens(
        model.seq)) * model.heads * model.qk_dim / plan.tp
    fused = np.asarray(plan.fused_kernels, dtype=bool)
    return [
        elementwise("norms", elements, np.where(fused, 4, 32),
                    np.where(fused, 2, 12)),
        elementwise("residuals", elements, np.where(fused, 6, 9),
                    np.where(fused, 2, 6)),
        elementwise("rotary and head layout", own, np.where(fused, 4, 9),
                    np.where(fused, 3, 9)),
    ]
