"""The kernels of a transformer's layers, by formulas of the local sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.analytic.configurations import FIRST, SECOND, Configurations
from planner.cost.analytic.hardware import Rates
from planner.cost.analytic.transformer import Transformer
from planner.cost.roofline import attention_longer, overlapped_s
from planner.cost.tiles import unfilled_flops

__all__ = [
    "Operator", "alternate", "attention_core", "dense_layer", "embedding",
    "expert_layer", "head", "kernels", "norms", "time_s"
]

Number = Any
_ELEMENT = 2  # bytes of an activation
_HEAD_WIDTH = 128
_ALIGNED = 3
"""Halvings of 64 that leave 8 elements, 16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator on one rank, for one micro-batch.

    The backward's numbers are given where they are not twice the
    forward's.

    Parameters
    ----------
    name, kind : str
        `kind` is ``linear``, ``matmul``, ``attention`` or ``memory``.
    flops, size_bytes, kernels : number or array
    backward_flops, backward_bytes : number or array, optional
    halvings : number or array
        How often 64 has to be halved until it divides the product's width.
    unaligned : bool or array
        Whether rows are no multiple of 16 bytes, of many small products.
    summed, backward_summed : number or array
        Length of the sums that products make, each product's added up; 0
        where a product fills the device however it is divided.
    weighted : bool
        Whether half of the backward makes the gradient of a weight.
    keys, head_width : number or array
        Of attention: how many keys a query meets in the mean, and the width
        of its heads, keys and values taken together.
    """

    name: str
    kind: str
    flops: Number
    size_bytes: Number
    kernels: Number = 1
    backward_flops: Number = None
    backward_bytes: Number = None
    halvings: Number = 0
    unaligned: Number = False
    summed: Number = 0
    backward_summed: Number = 0
    weighted: bool = False
    keys: Number = np.inf
    head_width: Number = _HEAD_WIDTH

    @property
    def in_backward(self) -> tuple[Number, Number, Number]:
        """Flops, bytes and kernels of the backward."""
        flops, size_bytes = self.backward_flops, self.backward_bytes
        return (2 * self.flops if flops is None else flops,
                2 * self.size_bytes if size_bytes is None else size_bytes,
                2 * self.kernels)


def halvings(width: Number) -> Number:
    """How often 64 has to be halved until it divides `width`.

    A width that is no whole number comes from sizes that do not belong to
    each other, and counts as one that 64 divides.

    Examples
    --------
    >>> [int(halvings(n)) for n in (128, 144, 150, 150.4)]
    [0, 2, 5, 0]
    """
    number = np.asarray(width)
    whole = number.astype(np.int64)
    return np.where(whole == number, 6 - np.log2(np.gcd(whole, 64)), 0.0)


def _linear(name: str, tokens: Number, weight: Number, width: Number,
            plan: Configurations, inner: Number, summed: Number) -> Operator:
    """`tokens` rows times a local weight of `weight` elements.

    `width` is how much one row reads and writes, `inner` the local width
    of the weight, `summed` how much one row reads. For products in 8 bits
    what comes in, and in the backward its gradient, is read in 16 and
    written twice in 8, the second time transposed. With a scale for each
    row both are casts of their own, after the largest of each row is found.
    """
    few = np.less(plan.linear_bits, 16)
    made = width - summed
    operand = np.where(few, 1, _ELEMENT)
    moved = (operand * (weight + tokens * summed) + _ELEMENT * tokens * made)
    backward = (operand * (weight + tokens * (made + width)) + _ELEMENT *
                (weight + tokens * summed))
    each = np.where(plan.row_scales, 2 * (2 * _ELEMENT + 1), _ELEMENT + 2)
    cast = np.where(few, each * tokens, 0.0)
    return Operator(name=name,
                    kind="linear",
                    flops=2 * tokens * weight,
                    size_bytes=moved + cast * summed,
                    backward_bytes=backward + cast * made,
                    kernels=np.where(few, 2, 1),
                    halvings=halvings(inner),
                    summed=summed,
                    backward_summed=width - summed + tokens,
                    weighted=True)


def _tokens(model: Transformer, plan: Configurations) -> Number:
    return model.layer_tokens(plan.tokens(model.seq))


def _pass(name: str, elements: Number, passes: Number,
          kernels: Number) -> Operator:
    """A kernel that goes over `elements` elements `passes` times."""
    return Operator(name=name,
                    kind="memory",
                    flops=0.0,
                    size_bytes=_ELEMENT * elements * passes,
                    kernels=kernels,
                    backward_bytes=_ELEMENT * elements * passes * 1.5)


def attention_core(model: Transformer, plan: Configurations) -> list[Operator]:
    """Scores, softmax and values: one kernel, or five."""
    heads = model.heads / plan.tp
    rows = _tokens(model, plan) * heads
    width = model.qk_dim + model.v_dim
    masked = np.where(model.causal, 0.5, 1.0)
    keys = masked * model.seq / plan.cp
    attended = masked * model.attended
    fused = np.asarray(plan.fused_attention, dtype=float)
    products = 2 * rows * model.seq * width
    scores = rows * model.seq
    operands = _ELEMENT * rows * 2 * width
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
                 size_bytes=(1 - fused) * (operands + _ELEMENT * 2 * scores),
                 kernels=(1 - fused) * 2,
                 halvings=np.where(unaligned, 0, halved),
                 unaligned=unaligned),
        # Scale, mask and softmax in one, then dropout with a mask of bytes;
        # else each by itself, in 32 bits.
        _pass("softmax and dropout", (1 - fused) * scores,
              np.where(one | ~eager, 4.5, 21),
              (1 - fused) * np.where(one, 2, np.where(eager, 7, 5))),
    ]


def _fused_softmax(plan: Configurations, heads: Number) -> Number:
    """Whether scores are masked and normalised by one kernel: Megatron's
    takes four rows of scores of as many heads and sequences at a time. A
    part of a head can't be told."""
    whole = np.equal(plan.micro_batch * heads % 4, 0) | (heads % 1 > 0)
    return np.asarray(plan.fused_kernels, dtype=bool) & whole


def norms(model: Transformer, plan: Configurations) -> list[Operator]:
    """Two norms, two residuals with dropout, and the layout of heads."""
    elements = _tokens(model, plan) * model.hidden / plan.stored_tp
    own = _tokens(model, plan) * model.heads * model.qk_dim / plan.tp
    fused = np.asarray(plan.fused_kernels, dtype=bool)
    return [
        _pass("norms", elements, np.where(fused, 4, 32),
              np.where(fused, 2, 12)),
        _pass("residuals", elements, np.where(fused, 6, 9),
              np.where(fused, 2, 6)),
        _pass("rotary and head layout", own, np.where(fused, 4, 9),
              np.where(fused, 3, 9)),
    ]


def _attention(model: Transformer, plan: Configurations) -> list[Operator]:
    tokens = _tokens(model, plan)
    share = 1 + model.cross_layers / model.layers
    qkv = model.qkv_parameters * share / plan.tp
    out = model.out_parameters * share / plan.tp
    return [
        _linear("qkv", tokens, qkv, model.hidden + qkv / model.hidden, plan,
                model.heads * model.qk_dim / plan.tp, model.hidden),
        *attention_core(model, plan),
        _linear("attention output", tokens, out,
                model.hidden + out / model.hidden, plan,
                model.heads * model.v_dim / plan.tp, out / model.hidden),
        *norms(model, plan),
    ]


def _mlp(name: str, tokens: Number, inner: Number, model: Transformer,
         plan: Configurations, weights: Number) -> list[Operator]:
    """An MLP of local width `inner`; `weights` sets of matrices are read."""
    up = model.matrices - 1
    fused = np.asarray(plan.fused_kernels, dtype=bool)
    rows = tokens * inner
    matrix = model.hidden * inner
    first = _linear(f"{name} up", tokens, up * matrix,
                    model.hidden + up * inner, plan, inner, model.hidden)
    second = _linear(f"{name} down", tokens, matrix, model.hidden + inner,
                     plan, inner, inner)
    extra = _ELEMENT * (weights - 1) * matrix
    return [
        _divided(first, weights, up * extra),
        _pass(f"{name} activation", rows, np.where(fused, 1 + up, 3 + up),
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


def dense_layer(model: Transformer, plan: Configurations) -> list[Operator]:
    """One layer with one MLP."""
    tokens = _tokens(model, plan)
    return [
        *_attention(model, plan),
        *_mlp("mlp", tokens, model.ffn / plan.tp, model, plan, 1)
    ]


def expert_layer(model: Transformer, plan: Configurations) -> list[Operator]:
    """One layer with experts, evenly loaded."""
    tokens = _tokens(model, plan)
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
        *_attention(model, plan),
        _linear("router", tokens / plan.stored_tp,
                model.hidden * model.experts, model.hidden + model.experts,
                plan, model.experts, model.hidden),
        _pass("routing",
              tokens / plan.stored_tp * np.maximum(model.experts, 1), 4, 12),
        *_launched([
            _pass("permutation", permuted, 6, 6),
            *_experts(_mlp("experts", rows, inner, model, plan, local), plan)
        ], loops),
        # Both halves of the gate are clamped and put together again.
        _pass("clamped gates", biased * rows * inner, 8, 4 * biased),
        # Times the row's weight, plus the rows, all put together and cast.
        _pass("expert biases", biased * permuted, 14,
              2 * biased * (local + 1)),
        *_mlp("shared expert", tokens, shared, model, plan, 1),
    ]


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


def embedding(model: Transformer, plan: Configurations) -> list[Operator]:
    """Token embedding on the first stage."""
    elements = plan.tokens(model.seq) * model.hidden
    return [_pass("embedding", elements, 4, 4)]


def head(model: Transformer, plan: Configurations) -> list[Operator]:
    """Final norm, logits and cross entropy on the last stage."""
    tokens = model.target_tokens(plan.tokens(model.seq))
    logits = tokens * model.vocab / plan.tp
    weight = model.embedding_parameters / plan.tp
    product = Operator(name="logits",
                       kind="matmul",
                       flops=2 * tokens * weight,
                       size_bytes=_ELEMENT *
                       (weight + logits + tokens * model.hidden),
                       summed=model.hidden,
                       backward_summed=tokens + model.vocab / plan.tp,
                       weighted=True)
    # In 32 bits: cast, maximum, difference, exponential, sum, quotient.
    return [
        _pass("final norm", tokens * model.hidden, 4, 2), product,
        _pass("cross entropy", tokens * model.vocab / plan.logits_tp, 10, 8)
    ]


def kernels(operators: Sequence[Operator], *, backward: bool) -> Number:
    """Launches of a list of operators."""
    return sum(o.in_backward[2] if backward else o.kernels for o in operators)


def _flops_per_s(rates: Rates, plan: Configurations, *,
                 backward: bool) -> dict[str, Number]:
    """The rate of each kind of operator."""
    bits, kernel = plan.linear_bits, plan.attention_kernel
    linear = np.select([np.less_equal(bits, 4),
                        np.less_equal(bits, 8)],
                       [rates.linear4_flops_per_s, rates.linear8_flops_per_s],
                       rates.matmul_flops_per_s)
    attention = np.select([
        np.equal(kernel, FIRST),
        np.equal(kernel, SECOND)
    ], [rates.first_attention_flops_per_s, rates.second_attention_flops_per_s],
                          rates.attention_flops_per_s)
    return {
        "linear": linear,
        "matmul": rates.matmul_flops_per_s,
        "attention":
        attention * (rates.attention_backward if backward else 1.0),
        "memory": rates.matmul_flops_per_s
    }


def _attention_longer(operator: Operator, rates: Rates,
                      plan: Configurations) -> Number:
    """How many times as long attention takes as with many keys, heads of
    128 elements and 16 bits: in 8 bits its products take half as long, of
    narrow heads it has more exponentials for as many flops."""
    products = np.where(np.less(plan.attention_bits, 16), 0.5, 1.0)
    exponentials = _HEAD_WIDTH / operator.head_width
    return attention_longer(operator.keys, rates.half_keys) * (
        (1 - rates.exponentials) * products +
        rates.exponentials * exponentials)


def time_s(operators: Sequence[Operator], rates: Rates, plan: Configurations,
           *, backward: bool) -> Number:
    """Time of operators on the device, one after the other."""
    flops_per_s = _flops_per_s(rates, plan, backward=backward)
    total_s: Number = 0.0
    for operator in operators:
        flops, size_bytes, count = (operator.in_backward if backward else
                                    (operator.flops, operator.size_bytes,
                                     operator.kernels))
        summed = operator.backward_summed if backward else operator.summed
        flops = flops + unfilled_flops(flops, summed, rates.wave_elements)
        halved = np.where(plan.frozen, 0.5,
                          1.0) if (backward and operator.weighted) else 1.0
        rate = np.where(operator.unaligned, rates.unaligned_flops_per_s,
                        flops_per_s[operator.kind])
        longer = (_attention_longer(operator, rates, plan)
                  if operator.kind == "attention" else 1.0)
        total_s = total_s + halved * (
            overlapped_s(flops / rate *
                         (1 + rates.misaligned * operator.halvings) * longer,
                         size_bytes / rates.memory_bytes_per_s,
                         exposed=rates.exposed) + count * rates.launch_s)
    return total_s
