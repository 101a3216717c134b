"""Pipelines of small models train as one device does."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.recipes import RECIPES
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_pipeline, check_planned
from tests.markers import nightly
from tests.model_zoo import example
from tests.test_planner.test_pipeline.models import (Example, Row, plain, row,
                                                     skips, tagger)

_PIPELINE = RECIPES["pipeline"]


class TestSchedules(unittest.TestCase):
    """Every schedule gives the same numbers."""

    def test_row_of_layers(self) -> None:
        subject = Subject(row)
        for name, chunks in {
                "gpipe": 1,
                "1f1b": 1,
                "interleaved1f1b": 2,
                "loopedbfs": 2,
                "zbh1": 1,
                "zbv": 2,
                "dualpipev": 2,
                "auto": 1,
        }.items():
            with self.subTest(schedule=name):
                plan = _PIPELINE(name, microbatches=4, chunks=chunks)
                check_pipeline(self, subject, plan, pp=2)


class TestModels(unittest.TestCase):
    """What is hard to cut."""

    def check(self,
              example: Any,
              *,
              schedule: str = "1f1b",
              **axes: int) -> None:
        check_pipeline(self, Subject(example),
                       _PIPELINE(schedule, microbatches=2), **axes)

    def test_one_block_is_cut_inside(self) -> None:
        self.check(plain, pp=2)

    def test_skips_go_over_several_stages(self) -> None:
        self.check(skips, pp=4)

    def test_ignored_tokens_lie_unevenly(self) -> None:
        self.check(tagger, pp=2, dp=2)

    def test_hand_written_cut_inside_a_block(self) -> None:
        example: Example = skips()
        plan = _PIPELINE("zbh1",
                         microbatches=2,
                         cuts=("glue.0:up2.conv_transpose2d", ))
        check_pipeline(self, Subject(lambda: example), plan, pp=2)


class Decayed(nn.Module):
    """A loss with a term of all parameters, which every stage holds some
    of."""

    def __init__(self) -> None:
        super().__init__()
        self.row = Row(2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        decay = sum(p.square().sum() for p in self.parameters())
        return F.mse_loss(self.row(x), y) + 1e-2 * decay


class Classes(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.row = Row(2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.row(x))


_Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_WEIGHT = torch.linspace(0.1, 1.3, 5, dtype=torch.float64)
_LABELS = torch.tensor([-100, -100, 0, 4, 3, -100, 1, 1])
_ODDS = torch.linspace(0.0, 1.0, 40).view(8, 5)

_WEIGHTED: tuple[tuple[torch.Tensor, _Loss], ...] = (
    (_LABELS,
     lambda o, y: F.cross_entropy(o, y, weight=_WEIGHT, label_smoothing=0.1)),
    (_LABELS, lambda o, y: F.cross_entropy(o, y, reduction="sum") / 8 + 0.1 * F
     .cross_entropy(o, y) + 0.01 * o.logsumexp(-1).square().mean()),
    (_ODDS,
     lambda o, y: F.binary_cross_entropy_with_logits(o, y, pos_weight=_WEIGHT)
     ),
)
_OTHERS: tuple[tuple[torch.Tensor, _Loss], ...] = (
    (_LABELS, lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)),
    (_LABELS, lambda o, y: F.cross_entropy(o, y, weight=_WEIGHT)),
    (_LABELS, lambda o, y: F.cross_entropy(o, y, reduction="none").sum() /
     (y != -100).sum()),
    (_LABELS, lambda o, y: F.nll_loss(o.log_softmax(-1), y, weight=_WEIGHT)),
    (_ODDS, lambda o, y: F.cross_entropy(o, y.softmax(-1))),
    (_ODDS, lambda o, y: F.binary_cross_entropy(o.sigmoid(), y)),
    (_ODDS, lambda o, y: F.mse_loss(o, y, reduction="sum")),
    (_ODDS, lambda o, y: F.kl_div(
        o.log_softmax(-1), y.softmax(-1), reduction="batchmean")),
    (_ODDS, lambda o, y: (1 - F.cosine_similarity(o, y, -1)).mean()),
    (_ODDS, lambda o, y: ((o - y).square() * (y > 0.5)).sum() /
     (y > 0.5).sum()),
)


class TestLosses(unittest.TestCase):
    """Means that are not those of equal micro-batches."""

    def check(self, losses: tuple[tuple[torch.Tensor, _Loss], ...]) -> None:
        x = torch.linspace(-1.0, 1.0, 64).view(8, 8)
        for number, (target, loss_fn) in enumerate(losses):
            with self.subTest(number):
                subject = Subject(
                    example(lambda: (Classes(), (x, target), loss_fn)))
                check_planned(self,
                              subject,
                              _PIPELINE("zbh1", microbatches=4),
                              close=1e-9,
                              pp=2)

    def test_weights_and_several_terms(self) -> None:
        self.check(_WEIGHTED)

    @nightly
    def test_others(self) -> None:
        self.check(_OTHERS)

    def test_term_of_all_parameters(self) -> None:

        def build() -> Example:
            x, y = torch.linspace(-1.0, 1.0, 128).view(2, 8, 8).unbind()
            return Decayed(), (x, y), None

        subject = Subject(example(build))
        for count in (1, 4):
            check_planned(self,
                          subject,
                          _PIPELINE(microbatches=count),
                          close=1e-9,
                          pp=2)


if __name__ == "__main__":
    unittest.main()
