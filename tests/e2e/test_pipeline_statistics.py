"""Statistics of batches: refused, or taken of each micro-batch."""

from __future__ import annotations

import copy
import unittest
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.ir.errors import LayoutError
from planner.ir.pipeline import PipelineSpec
from planner.pipeline.build import pipelined
from planner.recipes import RECIPES
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_planned, joined
from tests.model_zoo import example
from tests.test_planner.test_pipeline.models import (Layer, captured, laid_out,
                                                     normed)
from tests.test_scaletorch.small import on_ranks, seeded, whole

_COUNT = 4


class Balanced(nn.Module):
    """Picks one of two products by a gate whose choices are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 2)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        odds = self.gate(x).softmax(-1)
        chosen = odds.argmax(-1)
        share = F.one_hot(chosen, 2).to(x.dtype).mean(0)
        balance = 2 * (share * odds.mean(0)).sum()
        out = torch.where(chosen[:, None] == 0, self.one(x), self.two(x))
        return F.mse_loss(out * odds.amax(-1, keepdim=True), y) + 0.1 * balance


class Averages(nn.Module):
    """Buffers that other stages than that which writes them read, a count
    that weights the loss, and sums over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("products", torch.zeros(8, 8))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, total = x - self.mean, 0.0
        self.steps += 1
        for layer in self.layers:
            x = layer(x)
            total = total + self.steps * x.square().mean()
        with torch.no_grad():
            self.mean.lerp_(x.mean(0), 0.5)
            self.products.mul_(0.9).add_(x.t() @ x)
        return 1 - F.cosine_similarity(x, y).mean() + 0.1 * total


def trained(model: nn.Module, inputs: Any, loss_fn: Any,
            parts: int) -> dict[str, torch.Tensor]:
    """Two steps in `parts` micro-batches, as a loop would run them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for part in zip(*(x.chunk(parts) for x in inputs)):
            loss = (model(*part) if loss_fn is None else loss_fn(
                model(*part[:-1]), part[-1]))
            (loss / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {n: whole(t) for n, t in model.state_dict().items()}


def spectral() -> nn.Module:
    """Layers whose weights are divided by what a power iteration finds."""
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(*(nn.Sequential(norm(nn.Linear(8, 8)), nn.Tanh())
                           for _ in range(2)))


class TestBuffers(unittest.TestCase):

    def test_made_of_weights_alone(self) -> None:
        subject = Subject(
            example(lambda: (spectral(), (torch.randn(8, 8), torch.randn(8, 8)
                                          ), F.mse_loss)))
        check_planned(self, subject, RECIPES["pipeline"](microbatches=2), pp=2)

    def test_written_in_one_stage_and_read_in_another(self) -> None:
        subject = Subject(
            example(lambda: (Averages(),
                             (torch.randn(8, 8), torch.randn(8, 8)), None)))
        recipe = RECIPES["pipeline"](microbatches=2) * RECIPES["ddp"]()
        check_planned(self, subject, recipe, pp=2, dp=2)


class TestMicrobatchStatistics(unittest.TestCase):

    def check(self, model: nn.Module, inputs: Any, loss_fn: Any, recipe: Any,
              **axes: int) -> None:
        # Each data-parallel rank cuts its own share of the batch.
        data = axes.get("dp", 1)
        order = torch.arange(len(inputs[0])).view(data, _COUNT, -1)
        order = order.transpose(0, 1).flatten()
        expected = trained(copy.deepcopy(model), [x[order] for x in inputs],
                           loss_fn, _COUNT)

        found = joined(
            self,
            on_ranks(model,
                     inputs,
                     lambda m: trained(m, inputs, None, 1),
                     axes,
                     recipe,
                     loss_fn=loss_fn))
        self.assertEqual(set(found), set(expected))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name],
                                       tensor,
                                       rtol=1e-9,
                                       atol=1e-9)

    def test_batch_norm(self) -> None:
        model, inputs, loss_fn = normed()
        recipe = RECIPES["pipeline"]("1f1b",
                                     microbatches=_COUNT,
                                     batch_statistics="microbatch")
        inputs = tuple(x.double() for x in inputs)
        self.check(model.double(), inputs, loss_fn, recipe, pp=2)
        self.check(model,
                   inputs,
                   loss_fn,
                   recipe * RECIPES["ddp"](),
                   pp=2,
                   dp=2)

    def test_balance_of_experts(self) -> None:
        recipe = RECIPES["pipeline"]("zbh1",
                                     microbatches=_COUNT,
                                     batch_statistics="microbatch")
        inputs = (torch.randn(16, 8).double(), torch.randn(16, 8).double())
        self.check(seeded(Balanced), inputs, None, recipe, pp=2)


class TestRehearsed(unittest.TestCase):
    """What has no gradient is found in a forward pass before the step."""

    def test_balance_over_the_batch(self) -> None:

        def build() -> Any:
            return Balanced(), (torch.randn(16, 8), torch.randn(16, 8)), None

        subject = Subject(example(build))
        check_planned(self,
                      subject,
                      RECIPES["pipeline"]("zbh1", microbatches=_COUNT),
                      close=1e-9,
                      pp=2)


class TestRefused(unittest.TestCase):

    def test_what_needs_the_batch_is_refused_with_the_way_out(self) -> None:
        with self.assertRaisesRegex(LayoutError,
                                    'batch_statistics="microbatch"'):
            laid_out_and_cut(normed())

    def test_balance_after_dropout(self) -> None:

        class Dropped(Balanced):

            def forward(self, x: torch.Tensor,
                        y: torch.Tensor) -> torch.Tensor:
                return super().forward(F.dropout(x), y)

        inputs = (torch.randn(16, 8).double(), torch.randn(16, 8).double())
        with self.assertRaisesRegex(LayoutError, "random numbers"):
            laid_out_and_cut((seeded(Dropped), inputs, None))

    def test_unknown_value(self) -> None:
        with self.assertRaisesRegex(ValueError, "'exact' or 'microbatch'"):
            PipelineSpec(batch_statistics="none")


def laid_out_and_cut(example: Any) -> None:
    """As ``auto_parallelize`` does it."""
    found = laid_out(captured(example), PipelineSpec(microbatches=2), pp=2)
    pipelined(found.program, found.layout, found.pipeline)


if __name__ == "__main__":
    unittest.main()
