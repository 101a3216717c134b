"""Matrix products."""

from __future__ import annotations

import torch

import planner.ops  # noqa: F401 (registers an operator)
from tests.test_planner.test_rules.cases.case import case, normal

__all__ = ["CASES"]

aten = torch.ops.aten

split_linear = torch.ops.scaletorch.split_linear.default

CASES = (
    case(split_linear,
         normal(2, 6, 4),
         normal(12, 4),
         normal(12), [4, 4, 4],
         0,
         least=5),
    case(split_linear,
         normal(6, 4),
         normal(4, 24),
         None, [12, 6, 6],
         1,
         least=4),
    case(split_linear,
         normal(6, 4),
         normal(4, 24),
         normal(24), [6, 18],
         1,
         least=4),
    case(aten.linear.default, normal(2, 6, 4), normal(12, 4), least=6),
    case(aten.linear.default,
         normal(2, 6, 4),
         normal(12, 4),
         normal(12),
         least=7),
    case(aten.linear.default, normal(4), normal(6, 4), normal(6), least=3),
    case(aten.linear.default, normal(4, 6), normal(6), least=2),
    case(aten.matmul.default, normal(4, 6), normal(6, 8), least=5),
    case(aten.matmul.default, normal(2, 1, 4, 6), normal(3, 6, 8), least=5),
    case(aten.matmul.default, normal(6, 4, 6), normal(6), least=4),
    case(aten.matmul.default, normal(6), normal(2, 6, 8), least=4),
    case(aten.matmul.default, normal(6), normal(6), least=3),
    case(aten.mm.default, normal(4, 6), normal(6, 8), least=5),
    case(aten.bmm.default, normal(6, 4, 6), normal(6, 6, 8), least=6),
    case(aten.mv.default, normal(4, 6), normal(6), least=4),
    case(aten.dot.default, normal(6), normal(6), least=3),
    case(aten.inner.default, normal(6), normal(6), least=3),
    case(aten.outer.default, normal(6), normal(4), least=4),
    case(aten.ger.default, normal(6), normal(4), least=4),
    case(aten.addmm.default, normal(8), normal(4, 6), normal(6, 8), least=5),
    case(aten.addmm.default,
         normal(4, 1),
         normal(4, 6),
         normal(6, 8),
         beta=0.5,
         alpha=2,
         least=5),
    case(aten.baddbmm.default,
         normal(6, 4, 8),
         normal(6, 4, 6),
         normal(6, 6, 8),
         least=6),
    case(aten.addmv.default, normal(4), normal(4, 6), normal(6), least=4),
    case(aten.addbmm.default,
         normal(4, 8),
         normal(6, 4, 6),
         normal(6, 6, 8),
         least=6),
    case(aten.einsum.default,
         "bij, bjk -> bik", [normal(2, 4, 6), normal(2, 6, 4)],
         least=6),
    case(aten.einsum.default,
         "ii,ij->j", [normal(6, 6), normal(6, 4)],
         least=0),
)
