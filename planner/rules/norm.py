"""Normalisations and softmax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from planner.ir.layout import Placement, R, S
from planner.rules.dims import keep, others
from planner.rules.factors import number, place
from planner.rules.registry import OpCall, Option, register

__all__ = ["batch_norm", "group_norm", "last_dims_norm", "softmax"]

aten = torch.ops.aten


@register(aten.layer_norm.default, aten.rms_norm.default)
def last_dims_norm(call: OpCall) -> Iterable[Option]:
    """Every dim that is not normalised."""
    lead = call.inputs[0].ndim - len(call.args[1])
    yield from keep(call, range(lead))


@register(aten.native_layer_norm.default, aten._fused_rms_norm.default)
def native_last_dims_norm(call: OpCall) -> Iterable[Option]:
    """The same with the statistics as outputs."""
    yield from last_dims_norm(call)


@register(aten.softmax.int, aten._softmax.default, aten.log_softmax.int,
          aten._log_softmax.default, aten._safe_softmax.default,
          aten.glu.default)
def softmax(call: OpCall) -> Iterable[Option]:
    """Every dim but the one that sums to one."""
    yield from keep(call, others(call, call.arg(1, "dim", -1)))


@register(aten.group_norm.default)
def group_norm(call: OpCall) -> Iterable[Option]:
    """Samples, or whole groups of channels."""
    groups = call.args[1]
    yield place(call, {0: S(0)}, S(0))
    affine = {
        number(call.arg(2, "weight")): S(0),
        number(call.arg(3, "bias")): S(0)
    }
    yield place(call, {0: S(1), **affine}, S(1), units=groups)


@register(aten.native_group_norm.default)
def native_group_norm(call: OpCall) -> Iterable[Option]:
    """The same; the statistics have shape (samples, groups)."""
    groups = call.args[6]
    yield place(call, {0: S(0)}, S(0))
    affine = {number(call.args[1]): S(0), number(call.args[2]): S(0)}
    yield place(call, {0: S(1), **affine}, S(1), units=groups)


@register(aten.instance_norm.default)
def instance_norm(call: OpCall) -> Iterable[Option]:
    """Samples where no running statistics are kept, and channels."""
    stats = [number(call.args[i]) for i in range(1, 5)]
    if call.args[5] and stats[2:] == [None, None]:
        yield place(call, {0: S(0)}, S(0))
    yield place(call, {0: S(1), **{i: S(0) for i in stats}}, S(1))


@register(aten.batch_norm.default)
def batch_norm(call: OpCall) -> Iterable[Option]:
    """Channels; with given statistics any dim."""
    yield _channels(call)
    if not call.args[5]:
        yield from _samples(call)


@register(aten._native_batch_norm_legit.no_stats)
def batch_norm_without_statistics(call: OpCall) -> Iterable[Option]:
    """Channels, as weight standardisation uses it."""
    yield _channels(call)


@register(aten._native_batch_norm_legit_functional.default)
def native_batch_norm(call: OpCall) -> Iterable[Option]:
    """Channels; samples with statistics over all ranks."""
    yield _channels(call)
    lowering = "sync_batch_norm" if call.args[5] else None
    yield from _samples(call, lowering=lowering)


@register(aten._native_batch_norm_legit_no_training.default)
def inference_batch_norm(call: OpCall) -> Iterable[Option]:
    """Given statistics: any dim."""
    yield _channels(call)
    yield from _samples(call)


def _channels(call: OpCall) -> Option:
    """Input and outputs by channel; all small operands are vectors of it."""
    inputs: Mapping[int | None, Placement] = {
        0: S(1),
        **{
            i: S(0)
            for i in range(1, len(call.inputs))
        }
    }
    return place(call, inputs,
                 [S(1), *(_vector(s.shape) for s in call.outputs[1:])])


def _vector(shape: tuple[int, ...]) -> Placement:
    """Saved statistics are empty where none were computed."""
    return S(0) if shape[0] else R


def _samples(call: OpCall, *, lowering: str | None = None) -> Iterable[Option]:
    """Every dim but the channels'."""
    rest = [R] * (len(call.outputs) - 1)
    for dim in others(call, 1):
        yield place(call, {0: S(dim)}, [S(dim), *rest], lowering=lowering)
