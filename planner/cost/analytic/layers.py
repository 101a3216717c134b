"""The layers of a transformer, by formulas of the local sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.cost.analytic.attention import attention
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.operators import (ELEMENT_BYTES, Operator,
                                             elementwise, linear)
from planner.cost.analytic.transformer import Transformer

__all__ = ["alternate", "dense_layer", "expert_layer"]

Number = Any


def dense_layer(model: Transformer, plan: Configurations) -> list[Operator]:
    """One layer with one MLP."""
    tokens = model.layer_tokens(plan.tokens(model.seq))
    return [
        *attention(model, plan),
        *_mlp("mlp", tokens, model.ffn / plan.tp, model, plan, 1)
    ]


def expert_layer(model: Transformer, plan: Configurations) -> list[Operator]:
    """One layer with experts, evenly loaded."""
    tokens = model.layer_tokens(plan.tokens(model.seq))
    rows = tokens * model.top_k
    local = np.maximum(model.experts / plan.ep, 1)
    # What all ranks of tp do together of the rows is divided by tp.
    shared = model.shared_ffn / plan.tp
    permuted = rows * model.hidden / plan.tp
    # Eager code loops over experts, grouped products take all at once.
    loops = np.where(plan.fused_kernels, 1, local)
    biased = np.asarray(plan.expert_biases, dtype=float)
    inner = model.expert_ffn / plan.tp
    return [
        *attention(model, plan),
        linear("router", tokens / plan.stored_tp, model.hidden * model.experts,
               model.hidden + model.experts, plan, model.experts,
               model.hidden),
        elementwise("routing",
                    tokens / plan.stored_tp * np.maximum(model.experts, 1), 4,
                    12),
        *_launched([
            elementwise("permutation", permuted, 6, 6),
            *_experts(_mlp("experts", rows, inner, model, plan, local), plan)
        ], loops),
        # Both halves of the gate are clamped and put together again.
        elementwise("clamped gates", biased * rows * inner, 8, 4 * biased),
        # Times the row's weight, plus the rows, all put together and cast.
        elementwise("expert biases", biased * permuted, 14,
                    2 * biased * (local + 1)),
        *_mlp("shared expert", tokens, shared, model, plan, 1),
    ]


def _mlp(name: str, tokens: Number, inner: Number, model: Transformer,
         plan: Configurations, weights: Number) -> list[Operator]:
    """An MLP of local width `inner`; `weights` sets of matrices are read."""
    up = model.matrices - 1
    fused = np.asarray(plan.fused_kernels, dtype=bool)
    rows = tokens * inner
    matrix = model.hidden * inner
    first = linear(f"{name} up", tokens, up * matrix,
                   model.hidden + up * inner, plan, inner, model.hidden)
    second = linear(f"{name} down", tokens, matrix, model.hidden + inner, plan,
                    inner, inner)
    extra = ELEMENT_BYTES * (weights - 1) * matrix
    return [
        _divided(first, weights, up * extra),
        elementwise(f"{name} activation",
                    rows, np.where(fused, 1 + up, 3 + up),
                    np.where(fused, 1, 1 + up)),
        _divided(second, weights, extra)
    ]


def _experts(mlp: Sequence[Operator], plan: Configurations) -> list[Operator]:
    """The products of experts and the gate between them, which the products
    may evaluate themselves before they write."""
    first, gate, second = mlp
    fused = np.asarray(plan.fused_experts, dtype=bool)
    _, backward_bytes, _ = gate.in_backward
    return [
        first,
        dataclasses.replace(gate,
                            size_bytes=np.where(fused, 0, gate.size_bytes),
                            backward_bytes=np.where(fused, 0, backward_bytes),
                            kernels=np.where(fused, 0, gate.kernels)), second
    ]


def _divided(operator: Operator, parts: Number,
             extra_bytes: Number) -> Operator:
    """A product that is many, each with its own weight and last tiles."""
    _, backward_bytes, _ = operator.in_backward
    return dataclasses.replace(operator,
                               size_bytes=operator.size_bytes + extra_bytes,
                               backward_bytes=backward_bytes + 2 * extra_bytes,
                               summed=operator.summed * parts,
                               backward_summed=operator.backward_summed *
                               parts)


def _launched(ops: Sequence[Operator], times: Number) -> list[Operator]:
    """The same work in `times` as many kernels."""
    return [dataclasses.replace(o, kernels=o.kernels * times) for o in ops]


def alternate(layer: Sequence[Operator]) -> list[Operator]:
    """What is made again of a layer that keeps every second product, the
    last one and attention."""
    found = []
    for operator in layer[:-1]:
        if operator.kind == "memory":
            found.append(operator)
        elif operator.kind == "linear":
            found.append(
                dataclasses.replace(operator,
                                    flops=operator.flops / 2,
                                    size_bytes=operator.size_bytes / 2,
                                    kernels=operator.kernels / 2,
                                    summed=operator.summed / 2))
    return found
