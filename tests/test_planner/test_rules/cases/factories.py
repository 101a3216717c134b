"""Factories and random numbers."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import (case, flags, normal,
                                                      positive)

__all__ = ["CASES"]

aten = torch.ops.aten
_X = normal(6, 4).detach()

CASES = (
    case(aten.empty.memory_format, [6, 4], values=False, least=2),
    case(aten.full.default, [6, 4], 2.0, least=2),
    case(aten.ones.default, [6, 4], least=2),
    case(aten.zeros.default, [6, 4], least=2),
    case(aten.rand.default, [6, 4], values=False, least=2),
    case(aten.randn.default, [6, 4], values=False, least=2),
    case(aten.randint.default, 5, [6, 4], values=False, least=2),
    case(aten.randint.low, 2, 5, [6, 4], values=False, least=2),
    case(aten.empty_like.default, _X, values=False, least=2),
    case(aten.full_like.default, _X, 2.0, least=2),
    case(aten.ones_like.default, _X, least=2),
    case(aten.zeros_like.default, flags(6, 4), least=2),
    case(aten.rand_like.default, _X, values=False, least=2),
    case(aten.randn_like.default, _X, values=False, least=2),
    case(aten.randint_like.default, _X, 5, values=False, least=2),
    case(aten.randint_like.low_dtype, _X, 2, 5, values=False, least=2),
    case(aten.bernoulli.default, positive(6, 4).detach(), values=False),
    case(aten.bernoulli.p, _X, 0.5, values=False, least=2),
    case(aten.normal_functional.default, _X, values=False, least=2),
    case(aten.normal.Tensor_float, _X, 2.0, values=False, least=2),
    case(aten.exponential.default, _X, 2.0, values=False, least=2),
    case(aten.new_empty.default, _X, [12], values=False, least=4),
    case(aten.new_full.default, _X, [12, 6], 2.0, least=6),
    case(aten.new_ones.default, _X, [12], least=5),
    case(aten.new_zeros.default, _X, [3, 4], least=4),
    case(aten.arange.default, 12),
    case(aten.arange.start, 3, 9),
    case(aten.arange.start_step, 0, 12, 2),
    case(aten.linspace.default, 0.0, 1.0, 6),
    case(aten.scalar_tensor.default, 3.0, least=0),
    case(aten.eye.default, 4, least=0),
    case(aten.eye.m, 4, 6, least=0),
    case(aten.tril_indices.default, 4, 4, least=0),
    case(aten.triu_indices.default, 4, 4, least=0),
    case(aten.randperm.default, 6, values=False, least=0),
)
