"""Factories and random numbers: every rank makes its own part."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import P, R, S
from planner.rules.factors import place, shard
from planner.rules.registry import OpCall, Option, register

__all__ = ["arange", "factory", "like", "new"]

aten = torch.ops.aten


@register(aten.empty.memory_format, aten.full.default, aten.ones.default,
          aten.zeros.default, aten.rand.default, aten.randn.default,
          aten.randint.default, aten.randint.low)
def factory(call: OpCall) -> Iterable[Option]:
    """Any dim of the new tensor."""
    for dim in range(call.outputs[0].ndim):
        yield shard(call, (), dim)


@register(aten.empty_like.default, aten.full_like.default,
          aten.ones_like.default, aten.zeros_like.default,
          aten.rand_like.default, aten.randn_like.default,
          aten.randint_like.default, aten.randint_like.low_dtype,
          aten.bernoulli.default, aten.bernoulli.p,
          aten.normal_functional.default, aten.normal.Tensor_float,
          aten.exponential.default)
def like(call: OpCall) -> Iterable[Option]:
    """Any dim, as the input's."""
    for dim in range(call.outputs[0].ndim):
        yield place(call, {0: S(dim)}, S(dim))


@register(aten.new_empty.default, aten.new_full.default, aten.new_ones.default,
          aten.new_zeros.default)
def new(call: OpCall) -> Iterable[Option]:
    """Any dim of the new tensor; the input gives only dtype and device."""
    source, target = call.inputs[0], call.outputs[0]
    for dim in range(target.ndim):
        yield shard(call, (None, ), dim)
        if dim < source.ndim:
            yield shard(call, (dim, ), dim)
    for dim in range(source.ndim):
        yield shard(call, (dim, ), None)
    yield place(call, {0: P}, R)


@register(aten.arange.default, aten.arange.start, aten.arange.start_step,
          aten.linspace.default)
def arange(call: OpCall) -> Iterable[Option]:
    """A rank's numbers depend on where its part begins."""
    yield Option(inputs=(), outputs=(S(0), ), lowering="arange_shard")


@register(aten.scalar_tensor.default, aten.eye.default, aten.eye.m,
          aten.tril_indices.default, aten.triu_indices.default,
          aten.randperm.default)
def whole(call: OpCall) -> Iterable[Option]:
    """Every rank makes the whole."""
    return ()
