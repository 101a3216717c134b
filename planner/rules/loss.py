"""Losses: a sum over samples is partial, a mean needs the global count."""

from __future__ import annotations

from collections.abc import Iterable

import torch

import planner.ops  # noqa: F401 (registers an operator)
from planner.ir.layout import P, Placement, R, S
from planner.rules.elementwise import aligned
from planner.rules.factors import number, place
from planner.rules.registry import OpCall, Option, TensorSpec, register

__all__ = ["cross_entropy", "pointwise_loss"]

aten = torch.ops.aten
_NONE, _MEAN, _SUM = 0, 1, 2

_POINTWISE = {
    aten.binary_cross_entropy.default: 3,
    aten.binary_cross_entropy_with_logits.default: 4,
    aten.hinge_embedding_loss.default: 3,
    aten.huber_loss.default: 2,
    aten.kl_div.default: 2,
    aten.l1_loss.default: 2,
    aten.margin_ranking_loss.default: 4,
    aten.mse_loss.default: 2,
    aten.poisson_nll_loss.default: 5,
    aten.smooth_l1_loss.default: 2,
    aten.soft_margin_loss.default: 2,
}
"""Losses of one number for each element; position of their reduction."""


@register(*_POINTWISE)
def pointwise_loss(call: OpCall) -> Iterable[Option]:
    """Every dim of the broadcast inputs."""
    reduction = call.arg(_POINTWISE[call.target], "reduction", _MEAN)
    whole = TensorSpec(shape=tuple(
        torch.broadcast_shapes(*(s.shape for s in call.inputs))),
                       dtype=call.outputs[0].dtype)
    for dim in range(whole.ndim):
        own: dict[int | None, Placement] = {
            i: S(d)
            for i, s in enumerate(call.inputs)
            if (d := aligned(s, whole, dim)) is not None
        }
        if own:
            yield _reduced_loss(call, own, reduction, unreduced=S(dim))


@register(aten.cross_entropy_loss.default, aten.nll_loss.default,
          aten.nll_loss_nd.default, aten.nll_loss2d.default)
def cross_entropy(call: OpCall) -> Iterable[Option]:
    """By sample, or (cross entropy of class numbers) by class."""
    logits, target = call.inputs[:2]
    classes = 1 if logits.ndim > 1 else 0
    reduction = call.arg(3, "reduction", _MEAN)
    numbers = target.ndim < logits.ndim
    for dim in range(logits.ndim):
        if dim != classes:
            yield _by_sample(call, dim, reduction, numbers)
    if numbers and _has_vocab_lowering(call):
        yield place(call, {0: S(classes)}, R, lowering="cross_entropy_vocab")


def _by_sample(call: OpCall, dim: int, reduction: int,
               numbers: bool) -> Option:
    # The outputs, and targets that are class numbers, lack the class dim.
    without = dim - (dim > 1)
    inputs: dict[int | None, Placement] = {
        0: S(dim),
        1: S(without if numbers else dim)
    }
    if reduction == _NONE:
        return place(call, inputs, S(without))
    mean = "cross_entropy_partial" if numbers else "mean_partial"
    return place(call,
                 inputs,
                 P,
                 lowering=mean if reduction == _MEAN else None)


def _has_vocab_lowering(call: OpCall) -> bool:
    """Logits that are normalised here, without weights or smoothing."""
    return (call.target is aten.cross_entropy_loss.default
            and number(call.arg(2, "weight")) is None
            and not call.arg(5, "label_smoothing", 0.0))


_BY_ROW = {
    aten.cosine_embedding_loss.default: 4,
    aten.multi_margin_loss.default: 5,
    aten.multilabel_margin_loss.default: 2,
    aten.triplet_margin_loss.default: 7,
}
"""Losses of one number for each row; position of their reduction."""


@register(*_BY_ROW)
def row_loss(call: OpCall) -> Iterable[Option]:
    """The batch dim of all inputs but a vector of class weights."""
    reduction = call.arg(_BY_ROW[call.target], "reduction", _MEAN)
    weight = number(call.arg(4, "weight")) if (
        call.target is aten.multi_margin_loss.default) else None
    if call.inputs[0].ndim == 2:
        yield _reduced_loss(
            call, {i: S(0)
                   for i in range(len(call.inputs)) if i != weight}, reduction)


@register(torch.ops.scaletorch.ctc_loss.default)
def ctc_loss(call: OpCall) -> Iterable[Option]:
    """The batch dim, where targets are rows of a matrix."""
    if call.inputs[1].ndim == 2:
        yield place(call, {0: S(1), **{i: S(0) for i in range(1, 4)}}, S(0))


def _reduced_loss(call: OpCall,
                  inputs: dict[int | None, Placement],
                  reduction: int,
                  *,
                  unreduced: Placement = S(0)) -> Option:
    """`unreduced`: the unreduced loss' placement."""
    return place(call,
                 inputs,
                 unreduced if reduction == _NONE else P,
                 lowering="mean_partial" if reduction == _MEAN else None)
