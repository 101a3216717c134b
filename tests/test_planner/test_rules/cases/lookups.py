"""Embeddings and losses."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import (case, ints, normal,
                                                      positive)

__all__ = ["CASES"]

aten = torch.ops.aten
_LOGITS, _NUMBERS = normal(6, 12), ints(12, 6)
_MASKED = torch.where(ints(2, 6) > 0, _NUMBERS, -100)
_WEIGHT = positive(12).detach()
_A, _B, _C = normal(6, 4), normal(6, 1), positive(6, 4)
_SIGNS = ints(2, 6, 4).double() * 2 - 1

_CROSS_ENTROPY = tuple(c for reduction in range(3) for c in (
    case(aten.cross_entropy_loss.default,
         _LOGITS,
         _MASKED,
         None,
         reduction,
         least=2),
    case(aten.cross_entropy_loss.default,
         _LOGITS,
         _MASKED,
         _WEIGHT,
         reduction,
         -100,
         0.1,
         least=1),
    case(aten.cross_entropy_loss.default,
         normal(2, 6, 4),
         ints(6, 2, 4),
         None,
         reduction,
         least=3),
    case(aten.cross_entropy_loss.default,
         _LOGITS,
         positive(6, 12),
         _WEIGHT,
         reduction,
         least=1),
    case(aten.nll_loss_nd.default, _LOGITS, _MASKED, None, reduction),
    case(aten.nll_loss.default, _LOGITS, _NUMBERS, _WEIGHT, reduction),
    case(aten.nll_loss2d.default,
         normal(2, 6, 4, 4),
         ints(6, 2, 4, 4),
         None,
         reduction,
         least=3),
    case(aten.mse_loss.default, _A, _C, reduction, least=2),
    case(aten.l1_loss.default, _A, _C, reduction, least=2),
    case(aten.huber_loss.default, _A, _C, reduction, 0.5, least=2),
    case(aten.smooth_l1_loss.default, _A, _C, reduction, least=2),
    case(aten.soft_margin_loss.default, _A, _SIGNS, reduction, least=2),
    case(
        aten.hinge_embedding_loss.default, _A, _SIGNS, 1.0, reduction,
        least=2),
    case(aten.kl_div.default, _A, _C, reduction, least=2),
    case(aten.margin_ranking_loss.default,
         _A,
         _C,
         _SIGNS,
         0.1,
         reduction,
         least=2),
    case(aten.poisson_nll_loss.default,
         _A,
         _C,
         True,
         False,
         1e-8,
         reduction,
         least=2),
    case(aten.binary_cross_entropy.default,
         _C,
         _C.detach(),
         _B.detach(),
         reduction,
         least=2),
    case(aten.binary_cross_entropy_with_logits.default,
         _A,
         _C.detach(),
         None,
         normal(4).detach(),
         reduction,
         least=2),
))

CASES = (
    *_CROSS_ENTROPY,
    case(aten.cross_entropy_loss.default, normal(12), torch.tensor(3),
         least=1),
    case(aten.embedding.default, normal(12, 4), ints(12, 6, 2), least=4),
    case(aten.embedding.default,
         normal(12, 4),
         ints(12, 6, 2),
         0,
         True,
         least=2),
    case(aten.embedding_bag.padding_idx, normal(12, 4), ints(12, 6),
         torch.tensor([0, 2, 3]), False, 0, False, None, False, None),
    case(aten.embedding_bag.default, normal(12, 4), ints(12, 6),
         torch.tensor([0, 2, 3]), False, 1),
    case(aten.embedding_bag.default, normal(12, 4), ints(12, 6),
         torch.tensor([0, 2, 3]), False, 2),
    case(aten._embedding_bag.default, normal(12, 4), ints(12, 6),
         torch.tensor([0, 2, 3])),
)
