"""What goes between stages, and what stages share."""

from __future__ import annotations

import dataclasses
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.pipeline.means import count_ahead
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.schedule.named import make_schedule
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_pipeline
from tests.markers import nightly
from tests.model_zoo import Example, example
from tests.test_planner.test_pipeline.models import Layer

_PIPELINE = RECIPES["pipeline"]


class Chosen(nn.Module):
    """Numbers and flags that the first layer finds are read by later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.kinds = nn.Embedding(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](x)
        kind, positive = x.argmax(-1), x > 0
        x = self.layers[1](x)
        x = self.layers[2](torch.where(positive, x, 0.1 * x))
        return self.layers[3](x + self.kinds(kind))


class Shared(nn.Module):
    """One weight in the first, second and last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        for number in (1, 3):
            self.layers[number].up.weight = self.layers[0].up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Two(nn.Module):
    """What the first row makes is read by each layer of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(Layer() for _ in range(2))
        self.second = nn.ModuleList(Layer() for _ in range(2))
        self.reads = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = x
        for layer in self.first:
            memory = layer(memory)
        for layer, read in zip(self.second, self.reads, strict=True):
            x = layer(x + torch.tanh(read(memory)))
        return x


class Again(Shared):
    """Computes its layers again in the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def _subject(model: Any) -> Subject:

    def build() -> Example:
        x, y = torch.randn(8, 8), torch.randn(8, 8)
        return model(), (x, y), F.mse_loss

    return Subject(example(build))


class TestEdges(unittest.TestCase):

    def check(self, model: Any, *plans: Any, **axes: int) -> None:
        subject = _subject(model)
        for plan in plans:
            with self.subTest(plan=plan.name):
                check_pipeline(self, subject, plan, **axes)

    def test_numbers_and_flags(self) -> None:
        self.check(Chosen, _PIPELINE(microbatches=2), pp=4)

    def test_a_weight_of_three_stages(self) -> None:
        self.check(Shared, _PIPELINE("zbh1", microbatches=2), pp=4)

    def test_memory_of_an_encoder(self) -> None:
        self.check(Two, _PIPELINE(microbatches=2), pp=4)

    def test_checkpointed_layers(self) -> None:
        self.check(Again, _PIPELINE(microbatches=2), pp=2)

    def test_a_schedule_in_a_file(self) -> None:
        text = str(make_schedule("1f1b", ranks=2, microbatches=4))
        self.assertIn("0B0 0F2", text)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "own.txt"
            path.write_text("# by hand\n" + text.replace("0B0 0F2", "0F2 0B0"))
            self.check(Shared, _PIPELINE(str(path), microbatches=4), pp=2)

    @nightly
    def test_planned_to_compute_again(self) -> None:
        subject = _subject(Two)
        planning = Planning(subject.program,
                            load_cluster("cpu-gloo").resized(2))
        mesh = MeshSpec(("pp", ), (2, ))
        for schedule in ("1f1b", "zbh1"):
            recipe = _PIPELINE(schedule, microbatches=2)
            plan = dataclasses.replace(
                planning.plan_of(planning.from_recipe(recipe, mesh)),
                recompute=tuple(count_ahead(subject.program).classes))
            with self.subTest(schedule):
                check_pipeline(self, subject, plan, pp=2)

    @nightly
    def test_under_every_kind_of_schedule(self) -> None:
        plans = [
            _PIPELINE(name, microbatches=4, chunks=chunks)
            for name, chunks in (("interleaved1f1b", 2), ("zbv", 2), ("auto",
                                                                      1))
        ]
        for model in (Chosen, Shared, Two, Again):
            self.check(model, *plans, pp=2)


if __name__ == "__main__":
    unittest.main()
