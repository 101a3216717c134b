"""Attention."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import case, flags, normal

__all__ = ["CASES"]

_sdpa = torch.ops.aten.scaled_dot_product_attention.default
_Q, _K, _V = normal(2, 6, 12, 4), normal(2, 6, 10, 4), normal(2, 6, 10, 3)

CASES = (
    case(_sdpa, _Q, _K, _V, least=4),
    case(_sdpa, _Q, _K, _V, None, 0.0, True, least=3),
    case(_sdpa,
         _Q,
         normal(2, 6, 12, 4),
         normal(2, 6, 12, 3),
         None,
         0.0,
         True,
         least=5),
    case(_sdpa, _Q, _K, _V, normal(2, 1, 12, 10), least=4),
    case(_sdpa, _Q, _K, _V, normal(1, 1, 12, 10).detach(), least=3),
    case(_sdpa, _Q, _K, _V, flags(2, 1, 1, 10), least=3),
    case(_sdpa, _Q, _K, _V, normal(6, 12, 10).detach(), least=3),
    case(_sdpa,
         normal(2, 12, 6, 4),
         normal(2, 6, 10, 4),
         normal(2, 6, 10, 4),
         enable_gqa=True,
         scale=0.3,
         least=3),
    case(_sdpa, normal(6, 12, 4), normal(6, 10, 4), normal(6, 10, 4), least=2),
    case(_sdpa, _Q, _K, _V, None, 0.5, values=False, least=3),
)
