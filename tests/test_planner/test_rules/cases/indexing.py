"""Indexing, scattering, grouped products."""

from __future__ import annotations

import torch
# Defines the operator of mixtures of experts on CPUs.
import transformers.integrations.moe  # noqa: F401

from tests.test_planner.test_rules.cases.case import (case, flags, ints,
                                                      normal, positive)

__all__ = ["CASES"]

aten = torch.ops.aten
_X = normal(6, 4, 12)
_ROWS = torch.tensor([3, 0, 5, 1, 4, 2])

_INDEXING = (
    case(aten.index.Tensor, _X, [None, ints(4, 6, 2)], least=5),
    case(aten.index.Tensor, _X,
         [ints(6, 6, 1), None, ints(12, 4)], least=4),
    case(aten.index.Tensor, _X,
         [None, ints(4, 6), ints(12, 6)], least=3),
    case(aten.index.Tensor, _X, [None, flags(4)], least=0),
    case(aten._unsafe_index.Tensor, _X, [ints(6, 4)], least=4),
    case(aten.index_put.default,
         _X, [None, torch.tensor([2, 0])],
         normal(6, 2, 12),
         least=3),
    case(aten.index_put.default, _X, [_ROWS], normal(6, 4, 12), True, least=4),
    case(aten.index_put.default, _X, [_ROWS], normal(12), True, least=4),
    case(aten._unsafe_index_put.default,
         _X, [None, ints(4, 6)],
         normal(6, 6, 12),
         True,
         least=4),
    case(aten.gather.default, _X, 1, ints(4, 6, 2, 12), least=4),
    case(aten.gather.default, _X, -1, ints(12, 3, 4, 6), least=3),
    case(aten.scatter.src,
         _X,
         1,
         torch.tensor([1, 3]).view(1, 2, 1).expand(6, 2, 12),
         normal(6, 2, 12),
         least=3),
    case(aten.scatter.value, _X, 2, ints(12, 6, 4, 3), 0, least=3),
    case(aten.scatter.value, _X, 2, ints(12, 6, 4, 3), 1.5, least=2),
    case(aten.scatter_add.default,
         _X,
         1,
         ints(4, 6, 6, 12),
         normal(6, 6, 12),
         least=4),
    case(aten.scatter_reduce.two,
         _X,
         1,
         ints(4, 6, 6, 12),
         normal(6, 6, 12),
         "mean",
         least=2),
    case(aten.index_add.default,
         _X,
         1,
         ints(4, 6),
         normal(6, 6, 12),
         alpha=2,
         least=4),
    case(aten.index_copy.default, _X, 0, _ROWS[:2], normal(2, 4, 12), least=3),
    case(aten.index_fill.int_Scalar, _X, 1, ints(4, 2), 2.0, least=2),
    case(aten.one_hot.default, ints(5, 6, 4), 5, least=2),
    case(aten.one_hot.default, ints(5, 6, 4), least=0),
    case(aten.histc.default, positive(6, 4).detach(), 5, 0, 1, least=2),
    case(aten.searchsorted.Tensor,
         positive(9).detach().sort().values,
         positive(6, 4).detach(),
         least=2),
    case(aten.bucketize.Tensor,
         positive(6, 4).detach(),
         positive(9).detach().sort().values,
         least=2),
    case(aten.isin.Tensor_Tensor, ints(9, 6, 4), ints(9, 4), least=2),
    case(aten.masked_scatter.default,
         _X,
         flags(6, 4, 12),
         normal(6, 4, 12),
         least=0),
    case(aten.masked_select.default, _X, flags(6, 4, 12), least=0),
    case(aten.nonzero.default, flags(6, 4), least=0),
    case(aten.bincount.default, ints(5, 6), least=0),
)

_ENDS = torch.tensor([3, 8], dtype=torch.int32)


def _single(*shape: int) -> torch.Tensor:
    return normal(*shape).detach().float().requires_grad_()


_GROUPED = (
    case(aten._grouped_mm.default,
         _single(8, 16),
         _single(2, 16, 24),
         _ENDS,
         tolerance=1e-4,
         least=4),
    case(aten._grouped_mm.default,
         _single(8, 16),
         _single(16, 24),
         torch.tensor([4, 16], dtype=torch.int32),
         tolerance=1e-4,
         least=4),
    case(aten._grouped_mm.default,
         _single(2, 8, 16),
         _single(2, 16, 24),
         tolerance=1e-4,
         least=6),
    case(torch.ops.transformers.grouped_mm_fallback.default,
         normal(8, 6),
         normal(2, 6, 4),
         _ENDS,
         least=4),
)

CASES = _INDEXING + _GROUPED
