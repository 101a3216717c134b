"""Reductions and what works along a dim."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import case, flags, ints, normal

__all__ = ["CASES"]

aten = torch.ops.aten
_X = normal(6, 4, 12)
_D = _X.detach()

CASES = (
    case(aten.sum.default, _X, least=4),
    case(aten.sum.dim_IntList, _X, [1], least=4),
    case(aten.sum.dim_IntList, _X, [0, -1], True, least=4),
    case(aten.sum.dim_IntList, flags(6, 4), [0], least=2),
    case(aten.nansum.default, _X, [1], least=3),
    case(aten.count_nonzero.default, _D, least=3),
    case(aten.count_nonzero.dim_IntList, _D, [1], least=3),
    case(aten.mean.default, _X, least=4),
    case(aten.mean.dim, _X, [1, 2], least=4),
    case(aten.mean.dim, _X, [-1], True, least=4),
    case(aten.amax.default, _X, [1], least=2),
    case(aten.amax.default, _D, [1], least=3),
    case(aten.amin.default, _D, [1, 2], True, least=3),
    case(aten.max.default, _D, least=3),
    case(aten.min.default, _D, least=3),
    case(aten.min.default, _X, least=0),
    case(aten.all.dim, flags(6, 4), 1),
    case(aten.all.dims, flags(6, 4), [1]),
    case(aten.any.dim, flags(6, 4), 1),
    case(aten.any.dims, flags(6, 4), [1]),
    case(aten.argmax.default, _D, 1, least=2),
    case(aten.argmax.default, _D, least=0),
    case(aten.argmin.default, _D, -1, True, least=2),
    case(aten.argsort.default, _D, least=2),
    case(aten.argsort.stable, _D, stable=True, dim=1, least=2),
    case(aten.cummax.default, _X, 1, least=2),
    case(aten.cummin.default, _X, 1, least=2),
    case(aten.cumprod.default, _X, 1, least=2),
    case(aten.cumsum.default, _X, 1, least=3),
    case(aten.cumsum.default, flags(6, 4), 1, least=1),
    case(aten.kthvalue.default, _X, 2, 1, least=2),
    case(aten.linalg_vector_norm.default, _X, 2, [1], least=2),
    case(aten.logcumsumexp.default, _X, 1, least=2),
    case(aten.logsumexp.default, _X, [1], least=2),
    case(aten.max.dim, _X, 1, least=2),
    case(aten.median.dim, _X, 1, least=2),
    case(aten.min.dim, _X, 1, least=2),
    case(aten.mode.default, _X, least=2),
    case(aten.norm.ScalarOpt_dim, _X, 2, [1], least=2),
    case(aten.prod.dim_int, _X, 1, least=2),
    case(aten.sort.default, _X, least=2),
    case(aten.sort.stable, _X, stable=True, dim=0, least=2),
    case(aten.std.correction, _X, [1], least=2),
    case(aten.std.correction, _X, least=0),
    case(aten.std.dim, _X, [1], least=2),
    case(aten.std_mean.correction, _X, [1], least=2),
    case(aten.topk.default, _X, 2, least=2),
    case(aten.topk.default, _X, 2, 1, least=2),
    case(aten.var.correction, _X, [0], correction=0, least=2),
    case(aten.var.dim, _X, [1], least=2),
    case(aten.var_mean.correction, _X, [1], least=2),
    case(aten.var_mean.dim, _X, [1], least=2),
    case(aten.std_mean.dim, _X, [1], least=2),
    case(aten.sum.default, ints(5, 6), least=2),
)
