"""Loops that clip and scale with torch's own do what one device does."""

from __future__ import annotations

import copy
import math
import unittest
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.recipes import RECIPES
from scaletorch.runtime.ranks import run_ranks
from scaletorch.stage_gradients import StageGradient
from tests.markers import nightly
from tests.test_planner.test_pipeline.models import Row
from tests.test_scaletorch.small import ids, on_ranks, seeded, spread, whole
from tests.test_scaletorch.test_pipeline.test_call import Trained, rows

_PIPELINE = RECIPES["pipeline"]
_STAGES = {"pp": 2}

Found = dict[str, Any]


class Tied(nn.Module):
    """Its first and last stage hold the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 8)
        self.row = Row()
        self.head = nn.Linear(8, 24, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.row(self.embed(tokens)))
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def _by_hand(module: nn.Module) -> torch.Tensor:
    for parameter in module.parameters():
        parameter.grad = parameter.grad / 2
    norms = [torch.norm(p.grad.detach(), 2) for p in module.parameters()]
    return torch.norm(torch.stack(norms), 2)


def _in_parts(module: nn.Module) -> torch.Tensor:
    total = nn.utils.get_total_norm([p.grad for p in module.parameters()],
                                    foreach=True)
    nn.utils.clip_grads_with_norm_(module.parameters(), 0.1, total)
    return total


def clipped(module: nn.Module) -> Found:
    """Norms as loops take them, over accumulated gradients."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    norms = []
    for take in (
            lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1),
            lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1, 1.0),
            lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1, math.inf),
            _by_hand, _in_parts):
        for _ in range(2):
            module(ids()).backward()
        norms.append(whole(take(module)))
        optimizer.step()
        optimizer.zero_grad()
    return {"norms": torch.stack(norms), "loss": module(ids()).detach()}


def scaled(module: nn.Module) -> Found:
    """A step that overflows on one stage alone, then one that does not."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = []
    for bad in (True, False):
        scaler.scale(module(ids())).backward()
        for name, parameter in module.named_parameters():
            if bad and name == "row.layers.3.up.bias":
                parameter.grad.fill_(math.inf)
        scaler.unscale_(optimizer)
        found.append(whole(nn.utils.clip_grad_norm_(module.parameters(), 0.1)))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return {
        "norms": torch.stack(found),
        "scale": scaler.get_scale(),
        "loss": module(ids()).detach()
    }


class TestLoop(unittest.TestCase):

    def check(self, body: Any, plan: Any, **axes: int) -> None:
        model = seeded(Tied)
        expected = body(copy.deepcopy(model))
        for found in on_ranks(model, (ids(), ), body, axes, plan):
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, msg=name)

    def test_clip(self) -> None:
        self.check(clipped, _PIPELINE(microbatches=2), pp=2)

    @nightly
    def test_clip_sharded(self) -> None:
        plan = _PIPELINE("zbh1", microbatches=2) * RECIPES["fsdp"]()
        self.check(clipped, plan, pp=2, dp=2)

    def test_scaler(self) -> None:
        self.check(scaled, _PIPELINE(microbatches=2), pp=2)

    def test_part_of_the_gradients(self) -> None:
        model = seeded(Trained)

        def work(rank: int) -> str:
            del rank
            module = spread(model, rows(), _STAGES, _PIPELINE(microbatches=2))
            module(*rows())["loss"].backward()
            first, *_ = module.parameters()
            assert isinstance(first.grad, StageGradient)
            assert type(copy.deepcopy(first.grad)) is StageGradient
            # A single one is known here.
            torch.testing.assert_close(float(first.grad.norm()),
                                       float(whole(first.grad).norm()))
            try:
                nn.utils.clip_grad_norm_([first], 1.0)
            except ValueError as error:
                return str(error)
            return ""

        for text in run_ranks(2, work):
            self.assertIn("was given 1 gradients of a pipeline", text)
            self.assertIn("scaletorch.clip_grad_norm_", text)


if __name__ == "__main__":
    unittest.main()
