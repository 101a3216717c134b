"""CTC is captured whole, and targets that a mask chooses in rows."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.ir.program import Program
from planner.recipes import RECIPES
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_planned
from tests.model_zoo import Example, example
from tests.test_planner.test_capture import eager
from tests.test_planner.test_capture.test_opaque import opaque_nodes


class Listener(nn.Module):
    """Labels below 1 are none, and stand anywhere in their row."""

    def __init__(self,
                 *,
                 counted: bool = True,
                 reduction: str = "sum") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(),
                                    nn.Linear(8, 6))
        self.counted, self.reduction = counted, reduction

    def forward(self, x: torch.Tensor, labels: torch.Tensor,
                counts: torch.Tensor) -> torch.Tensor:
        mask = labels > 0
        found = self.layers(x).log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(found,
                          labels.masked_select(mask),
                          torch.full_like(counts, x.shape[1]),
                          mask.sum(-1) if self.counted else counts,
                          reduction=self.reduction)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = torch.tensor([[1, -1, 2, 3], [0, 4, -1, 5], [2, 2, 0, 0],
                           [-1, -1, -1, -1]])
    return (torch.randn(4, 12, 4, dtype=torch.float64), labels, (labels
                                                                 > 0).sum(-1))


class TestMaskedTargets(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)

    def captured(self, **options: Any) -> Program:
        return eager.check_capture(self, Listener(**options).double(), batch())

    def test_of_each_reduction(self) -> None:
        for reduction in ("sum", "mean"):
            with self.subTest(reduction):
                program = self.captured(reduction=reduction)
                self.assertEqual(opaque_nodes(program), [])

    def test_counts_of_elsewhere_may_be_others(self) -> None:
        self.assertTrue(opaque_nodes(self.captured(counted=False)))

    def test_in_a_pipeline(self) -> None:

        def build() -> Example:
            return Listener(reduction="mean"), batch(), None

        check_planned(self,
                      Subject(example(build)),
                      RECIPES["pipeline"](microbatches=2),
                      pp=2)


if __name__ == "__main__":
    unittest.main()
