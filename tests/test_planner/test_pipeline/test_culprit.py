"""Errors name the call that needs the whole batch."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.ir.errors import LayoutError
from planner.ir.pipeline import PipelineSpec
from tests.test_planner.test_pipeline.models import Row, captured, laid_out

_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_REFUSED: dict[str, _Loss] = {
    "sqrt": lambda o, y: F.mse_loss(o, y).sqrt(),
    "var": lambda o, y: F.mse_loss(o, y) + o.var(0).mean(),
    "topk": lambda o, y: (o - y).square().mean(-1).topk(4)[0].mean(),
    "max": lambda o, y: (o - y).square().max(),
    "exp": lambda o, y: F.mse_loss(o, y).exp() + 3.0,
}


class Normed(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.row = Row(2)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.row(x)))


class Started(nn.Module):
    """Layers that start with a state of zeros and a token of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.layer = nn.GRU(8, 8, batch_first=True)
        self.row = Row(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        token = self.token.expand(len(x), -1, -1)
        found, _ = self.layer(torch.cat([token, x[:, None]], 1))
        return self.row(found[:, -1])


class _Doubled(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


def _branching(o: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if o.mean() > 0:
        return F.mse_loss(o, y)
    return F.l1_loss(o, y)


class TestCulprit(unittest.TestCase):

    def refused(self, model: nn.Module, loss_fn: _Loss) -> str:
        batch = torch.randn(8, 8), torch.randn(8, 8)
        with self.assertRaises(LayoutError) as caught:
            laid_out(captured((model, batch, loss_fn)),
                     PipelineSpec(microbatches=2),
                     pp=2)
        return str(caught.exception)

    def test_losses_that_are_no_sums(self) -> None:
        for name, loss_fn in _REFUSED.items():
            with self.subTest(name):
                self.assertRegex(self.refused(Row(), loss_fn), rf"^{name} at ")

    def test_what_each_sample_starts_with_is_not_named(self) -> None:
        self.assertRegex(self.refused(Started(), _REFUSED["sqrt"]),
                         "^sqrt at ")

    def test_inside_of_the_model(self) -> None:
        text = self.refused(Normed(), F.mse_loss)
        self.assertRegex(text, r"^norm\.\S*batch_norm\S* at norm ")
        self.assertIn('batch_statistics="microbatch"', text)

    def test_operators_that_nothing_is_known_of(self) -> None:
        text = self.refused(Row(),
                            lambda o, y: F.mse_loss(_Doubled.apply(o), y))
        self.assertIn("of which nothing is known", text)
        self.assertIn("planner.rules.registry.register", text)

    def test_what_runs_as_it_is_written(self) -> None:
        text = self.refused(Row(), _branching)
        self.assertIn("runs as it is written, on the whole batch", text)
        self.assertIn("notes say why", text)

    def test_counts_of_the_batch_are_known_before(self) -> None:

        def masked(o: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            kept = y > 0
            return ((o - y).square() * kept).sum() / kept.sum()

        self.assertRegex(self.refused(Row(), lambda o, y: masked(o, y).exp()),
                         r"^exp at ")


if __name__ == "__main__":
    unittest.main()
