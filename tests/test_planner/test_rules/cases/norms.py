"""Normalisations and softmax."""

from __future__ import annotations

import torch

from tests.test_planner.test_rules.cases.case import case, normal, positive

__all__ = ["CASES"]

aten = torch.ops.aten
_X = normal(6, 4, 12)


def _stats() -> tuple[torch.Tensor, torch.Tensor]:
    return normal(4).detach(), positive(4).detach()


CASES = (
    case(aten.layer_norm.default, _X, [12], normal(12), normal(12), least=2),
    case(aten.layer_norm.default, _X, [4, 12], least=1),
    case(aten.rms_norm.default, _X, [12], normal(12), least=2),
    case(aten.native_layer_norm.default,
         _X, [12],
         normal(12),
         normal(12),
         1e-5,
         least=2),
    case(aten._fused_rms_norm.default, _X, [12], normal(12), 1e-5, least=2),
    case(aten.softmax.int, _X, -1, least=2),
    case(aten._softmax.default, _X, 1, False, least=2),
    case(aten._safe_softmax.default, _X, 0, least=2),
    case(aten.log_softmax.int, _X, 0, least=2),
    case(aten._log_softmax.default, _X, 2, False, least=2),
    case(aten.glu.default, _X, least=2),
    case(aten.group_norm.default,
         normal(4, 6, 3),
         2,
         normal(6),
         normal(6),
         least=2),
    case(aten.group_norm.default, normal(4, 6, 3), 3, least=1),
    case(aten.native_group_norm.default,
         normal(4, 6, 5),
         normal(6),
         normal(6),
         4,
         6,
         5,
         2,
         1e-5,
         least=2),
    case(aten.instance_norm.default,
         normal(6, 4, 5),
         normal(4),
         normal(4),
         None,
         None,
         True,
         0.1,
         1e-5,
         False,
         least=2),
    case(aten.batch_norm.default,
         _X,
         normal(4),
         normal(4),
         *_stats(),
         False,
         0.1,
         1e-5,
         False,
         least=3),
    case(aten.batch_norm.default,
         _X,
         normal(4),
         normal(4),
         *_stats(),
         True,
         0.1,
         1e-5,
         False,
         least=1),
    case(aten._native_batch_norm_legit_functional.default,
         _X,
         normal(4),
         normal(4),
         *_stats(),
         True,
         0.1,
         1e-5,
         least=3),
    case(aten._native_batch_norm_legit.no_stats, _X, normal(4), normal(4),
         True, 0.1, 1e-5),
    case(aten._native_batch_norm_legit_no_training.default,
         _X,
         normal(4),
         normal(4),
         *_stats(),
         0.1,
         1e-5,
         least=3),
)
