"""Pointwise operators: every dim of the broadcast output may be sharded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from planner.ir.layout import P, R, S
from planner.rules.factors import partial
from planner.rules.registry import OpCall, Option, TensorSpec, register

__all__ = ["NAMED", "aligned", "pointwise"]

aten = torch.ops.aten

_LINEAR = {
    aten.neg.default: ("P", ),
    aten.positive.default: ("P", ),
    aten.clone.default: ("P", ),
    aten.alias.default: ("P", ),
    aten.detach.default: ("P", ),
    aten.lift_fresh_copy.default: ("P", ),
    aten.add.Tensor: ("PP", ),
    aten.sub.Tensor: ("PP", ),
    aten.subtract.Tensor: ("PP", ),
    aten.rsub.Tensor: ("PP", ),
    aten.mul.Tensor: ("PR", "RP"),
    aten.mul.Scalar: ("P", ),
    aten.multiply.Tensor: ("PR", "RP"),
    aten.div.Tensor: ("PR", ),
    aten.divide.Tensor: ("PR", ),
    aten.true_divide.Tensor: ("PR", ),
    aten.div.Scalar: ("P", ),
    aten.where.self: ("RPP", ),
    aten.lerp.Scalar: ("PP", ),
    aten.addcmul.default: ("PPR", "PRP"),
    aten.addcdiv.default: ("PPR", ),
}
"""Which inputs pass partial sums on, one pattern for each way."""

_ZERO_FILLS = {
    aten.masked_fill.Scalar: "PR",
    aten.where.ScalarOther: "RP",
}
"""The same for operators that fill with a number, if that is zero."""

_UNTAGGED = (
    aten.__and__.Scalar,
    aten.__and__.Tensor,
    aten.__or__.Scalar,
    aten.__or__.Tensor,
    aten.__xor__.Scalar,
    aten.__xor__.Tensor,
    aten.floor_divide.default,
    aten.floor_divide.Scalar,
    aten.log_sigmoid.default,
    aten.alpha_dropout.default,
    aten.bernoulli.Tensor,
    aten.complex.default,
    aten.hardswish.default,
    aten.polar.default,
    aten.masked_fill.Tensor,
    aten.greater.Tensor,
    aten.less.Tensor,
    aten.native_dropout.default,
    aten.negative.default,
    aten.dropout.default,
    aten.rrelu.default,
    aten.where.Scalar,
    aten.where.ScalarSelf,
    aten.fill.Scalar,
    aten.fill.Tensor,
    aten.float_power.Tensor_Scalar,
    aten.float_power.Tensor_Tensor,
    aten.float_power.Scalar,
    aten.fake_quantize_per_tensor_affine.default,
)


def aligned(spec: TensorSpec, output: TensorSpec, dim: int) -> int | None:
    """The dim of an operand that lines up with the output's `dim`.

    None where the operand is broadcast along it.
    """
    own = dim - (output.ndim - spec.ndim)
    return own if own >= 0 and spec.shape[own] != 1 else None


def _dims(call: OpCall) -> Iterator[Option]:
    output = call.outputs[0]
    for dim in range(output.ndim):
        own = [aligned(s, output, dim) for s in call.inputs]
        yield Option(inputs=tuple(R if d is None else S(d) for d in own),
                     outputs=(S(dim), ) * len(call.outputs))


NAMED = (*_LINEAR, *_ZERO_FILLS, *_UNTAGGED)
"""Pointwise operators that are not known by their tag alone."""


@register(torch.Tag.pointwise, *NAMED)
def pointwise(call: OpCall) -> Iterable[Option]:
    """Any dim; partial sums only through operators linear in them."""
    if any(s.shape != call.outputs[0].shape for s in call.outputs):
        return
    yield from _dims(call)
    for pattern in _linear_patterns(call):
        yield Option(inputs=tuple(P if c == "P" else R for c in pattern),
                     outputs=(P, ) * len(call.outputs))


def _linear_patterns(call: OpCall) -> Iterable[str]:
    """Ways in which partial sums pass."""
    if call.target in _ZERO_FILLS:
        return (_ZERO_FILLS[call.target], ) if call.args[2] == 0 else ()
    patterns = _LINEAR.get(call.target, ())
    if len(call.inputs) == 1 and "PR" in patterns:
        return ("P", )
    return tuple(p for p in patterns if len(p) == len(call.inputs))


@register(aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout,
          aten.to.device)
def to_copy(call: OpCall) -> Iterable[Option]:
    """Casts; those among floating dtypes are linear."""
    yield from _dims(call)
    kinds = [s.dtype.is_floating_point for s in call.inputs + call.outputs]
    if all(kinds) or call.inputs[0].dtype == call.outputs[0].dtype:
        yield partial(call)
