"""Pointwise operators; arguments are made up from the schemas."""

from __future__ import annotations

from typing import Any

import torch

from planner.rules.elementwise import NAMED
from tests.test_planner.test_rules.cases.case import (Case, case, flags, ints,
                                                      normal, positive)

__all__ = ["CASES", "by_schema"]

aten = torch.ops.aten

_BITS = ("and", "or__", "xor", "bitwise", "logical")


def by_schema(op: Any) -> Case:
    """A call with tensors of different, broadcast shapes."""
    shapes = iter(((6, 4), (4, ), (6, 1)))
    integral = any(word in str(op) for word in _BITS)
    args: list[Any] = []
    for argument in op._schema.arguments:
        kind = str(argument.type)
        if kind == "Tensor":
            shape = next(shapes)
            made = ints(5, *shape) if integral else positive(*shape)
            args.append(made)
        elif argument.has_default_value() or argument.kwarg_only:
            break
        elif kind == "number":
            args.append(2 if integral else 0.5)
        else:
            args.append({"int": 1, "bool": True, "float": 0.5}[kind])
    return case(op, *args, least=2)


_TAGGED = (aten.abs.default, aten.bitwise_and.Tensor, aten.bitwise_not.default,
           aten.ceil.default, aten.cos.default, aten.eq.Scalar, aten.eq.Tensor,
           aten.erf.default, aten.exp.default, aten.floor.default,
           aten.ge.Scalar, aten.gelu.default, aten.gt.Tensor,
           aten.isnan.default, aten.le.Tensor, aten.leaky_relu.default,
           aten.log.default, aten.log1p.default, aten.logical_and.default,
           aten.logical_not.default, aten.lt.Scalar, aten.masked_fill.Tensor,
           aten.maximum.default, aten.min.other, aten.minimum.default,
           aten.mish.default, aten.nan_to_num.default, aten.ne.Scalar,
           aten.pow.Scalar, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor,
           aten.reciprocal.default, aten.relu.default, aten.remainder.Scalar,
           aten.rsqrt.default, aten.rsub.Scalar, aten.sigmoid.default,
           aten.sign.default, aten.silu.default, aten.sin.default,
           aten.softplus.default, aten.sqrt.default, aten.square.default,
           aten.tanh.default, aten.xlogy.Tensor)

_SPECIAL = (
    case(aten.where.self, flags(6, 4), normal(6, 4), normal(4), least=3),
    case(aten.where.Scalar, flags(6, 4), 1.0, 2.0, least=2),
    case(aten.where.ScalarSelf, flags(6, 4), 1.0, normal(4), least=2),
    case(aten.where.ScalarOther, flags(6, 4), normal(6, 1), 0.0, least=3),
    case(aten.where.ScalarOther, flags(6, 4), normal(6, 1), 1.0, least=2),
    case(aten.masked_fill.Scalar, normal(6, 4), flags(4), 0.0, least=3),
    case(aten.masked_fill.Scalar, normal(6, 4), flags(4), -1e9, least=2),
    case(aten.clamp.default, normal(6, 4), -0.5, 0.5, least=2),
    case(aten.clamp.Tensor, normal(6, 4), normal(4), normal(6, 1), least=2),
    case(aten.floor_divide.default, ints(9, 6, 4), ints(9, 4) + 1, least=2),
    case(aten.floor_divide.Scalar, ints(9, 6, 4), 2, least=2),
    case(aten.bernoulli.Tensor,
         normal(6, 4).detach(),
         positive(4).detach(),
         values=False,
         least=2),
    case(aten.masked_fill.Tensor,
         normal(6, 4),
         flags(4),
         torch.tensor(2.0, dtype=torch.float64),
         least=2),
    case(aten.fill.Tensor, normal(6, 4), normal(), least=2),
    case(aten.mul.Tensor, normal(6, 4), 3.0, least=3),
    case(aten.div.Tensor, normal(6, 4), 3.0, least=3),
    case(aten.add.Tensor, normal(6, 4), 3.0, least=2),
    case(aten.add.Tensor, normal(6, 4), normal(6, 1), alpha=2, least=3),
    case(aten.add.Tensor, ints(9, 6, 4), ints(9, 4), least=3),
    case(aten.add.Tensor, flags(6, 4), flags(4), least=2),
    case(aten.div.Tensor_mode, normal(6, 4), 3.0, rounding_mode="floor"),
    case(aten.native_dropout.default, normal(6, 4), 0.0, True, least=2),
    case(aten.native_dropout.default,
         normal(6, 4),
         0.5,
         True,
         values=False,
         least=2),
    case(aten.alpha_dropout.default, normal(6, 4), 0.0, True, least=2),
    case(aten.dropout.default, normal(6, 4), 0.0, True, least=2),
    case(aten.rrelu.default, normal(6, 4), 0.2, 0.2, True, least=2),
    case(aten._to_copy.default,
         normal(6, 4),
         dtype=torch.float32,
         tolerance=1e-5),
    case(aten._to_copy.default, normal(6, 4), dtype=torch.float64, least=3),
    case(aten._to_copy.default, normal(6, 4), dtype=torch.int64, least=2),
    case(aten.to.dtype, normal(6, 4), torch.float64, False, True, least=3),
    case(aten.to.dtype_layout, normal(6, 4), dtype=torch.float64, least=3),
    case(aten.to.device, normal(6, 4), "cpu", torch.float64, least=3),
    case(aten.fake_quantize_per_tensor_affine.default,
         normal(6, 4),
         0.1,
         0,
         -8,
         8,
         least=2),
)

CASES = _SPECIAL + tuple(
    by_schema(op)
    for op in (*_TAGGED, *NAMED) if op not in {c.op
                                               for c in _SPECIAL})
