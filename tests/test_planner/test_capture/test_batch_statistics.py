"""Running statistics after a step are those that eager training leaves."""

from __future__ import annotations

import unittest

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.test_planner.test_capture.eager import check_capture


class Checkpointed(nn.Module):
    """Two checkpointed layers with a batch norm, one inside of the other."""

    def __init__(self, *, reentrant: bool, momentum: float | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.outer = nn.Linear(4, 4)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(4, momentum=momentum) for _ in range(2))

    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms[1](x).square()

    def _layer(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.outer(x)).tanh()
        return checkpoint(self._inner, x, use_reentrant=self.reentrant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self._layer, x, use_reentrant=self.reentrant).sum()


def rows(requires_grad: bool) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 4, dtype=torch.float64).requires_grad_(requires_grad)


class TestCheckpointed(unittest.TestCase):

    def test_statistics_are_updated_as_often_as_computed(self) -> None:
        for reentrant in (True, False):
            for momentum in (0.1, None):
                with self.subTest(reentrant=reentrant, momentum=momentum):
                    model = Checkpointed(reentrant=reentrant,
                                         momentum=momentum).double()
                    check_capture(self, model, (rows(True), ))
                    check_capture(self, model.eval(), (rows(True), ))

    def test_the_reentrant_kind_without_gradients(self) -> None:
        model = Checkpointed(reentrant=True, momentum=0.1).double()
        head = nn.Linear(4, 4).double()

        class Frozen(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.model, self.head = model, head

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(x + self.model(x)).sum()

        check_capture(self, Frozen(), (rows(False), ))


class TestAveragesByCount(unittest.TestCase):

    def test_of_batches_seen(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 3, 1),
                              nn.BatchNorm1d(3, momentum=None)).double()
        x = torch.randn(5, 4, 6, dtype=torch.float64)
        model(x + 1)
        check_capture(self, model, (x, ))


if __name__ == "__main__":
    unittest.main()
