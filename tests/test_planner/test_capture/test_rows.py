"""Lookups of each row's own place become gathers; others stay."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_capture.test_bags import labels
from tests.test_planner.test_planning.programs import slow_cluster

BATCH, LENGTH, WIDTH = 3, 5, 4


class Pooled(nn.Module):
    """A linear layer, then `pool(hidden, index)`."""

    def __init__(self, pool: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.pool = pool

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return self.pool(self.linear(x), index)


def rows(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[0], device=x.device)


class TestRows(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(BATCH, LENGTH, WIDTH)
        self.index = torch.tensor([4, -1, 0])

    def check(self,
              pool: Callable[..., torch.Tensor],
              index: Any = None,
              x: Any = None) -> set[str]:
        inputs = (self.x if x is None else x,
                  self.index if index is None else index)
        return labels(check_capture(self, *doubled(Pooled(pool), inputs)))

    def gathers(self, *args: Any) -> set[str]:
        found = self.check(*args)
        self.assertIn("gather", found)
        self.assertNotIn("index", found)
        return found

    def test_one_place_in_each_row(self) -> None:
        self.gathers(lambda x, i: x[rows(x), i])
        self.gathers(lambda x, i: x[rows(x), i], self.index.int())
        self.gathers(lambda x, i: x[rows(x), i, :])
        self.gathers(lambda x, i: x[rows(x), i], torch.tensor([2]), self.x[:1])

    def test_of_a_matrix_and_of_more_dims(self) -> None:
        self.gathers(lambda x, i: x.log_softmax(-1)[rows(x), i],
                     torch.tensor([3, 0, -2]), self.x[:, 0])
        self.gathers(lambda x, i: x[rows(x), i], None,
                     torch.randn(BATCH, LENGTH, 2, WIDTH))

    def test_several_places_in_each_row(self) -> None:
        places = torch.randint(-LENGTH, LENGTH, (BATCH, 7))
        self.gathers(lambda x, i: x[rows(x)[:, None], i], places)
        self.gathers(lambda x, i: x[rows(x).unsqueeze(1).expand(-1, 7), i],
                     places)

    def test_signs_are_proven_where_they_can(self) -> None:
        found = self.gathers(
            lambda x, i: x[rows(x), i.eq(0).int().argmax(-1)],
            torch.randint(0, 2, (BATCH, LENGTH)))
        self.assertNotIn("where", found)
        found = self.gathers(lambda x, i: x[rows(x), rows(x) + 1])
        self.assertNotIn("where", found)
        self.assertIn("where", self.gathers(lambda x, i: x[rows(x), i]))

    def test_what_stays(self) -> None:
        for pool in (lambda x, i: x[rows(x) * 0, i], lambda x, i: x[
            (rows(x) + 1) % BATCH, i], lambda x, i: x[i.abs() % BATCH, i],
                     lambda x, i: x[:2][torch.arange(2), i[:1]],
                     lambda x, i: x[torch.arange(2), i[:2]],
                     lambda x, i: x[rows(x), i, i % WIDTH],
                     lambda x, i: x[:, rows(x), i % WIDTH]):
            self.assertIn("index", self.check(pool))


class TestSqueeze(unittest.TestCase):

    def test_dims_are_named(self) -> None:
        for shape in ((1, LENGTH, 1, WIDTH), (BATCH, LENGTH, WIDTH), (1, 1,
                                                                      WIDTH)):
            model = Pooled(lambda x, i: x.squeeze())
            program = check_capture(
                self, *doubled(model, (torch.randn(shape), torch.zeros(1))))
            found = [
                call.target for cls in program.classes.values()
                for call in cls.calls if "squeeze" in str(call.target)
            ]
            self.assertEqual(found, [torch.ops.aten.squeeze.dims])


def classifier(kind: str) -> Program:
    sizes = dict(vocab_size=96,
                 pad_token_id=0,
                 bos_token_id=1,
                 eos_token_id=2,
                 num_labels=3)
    if kind == "gpt2":
        model = hf.GPT2ForSequenceClassification(
            hf.GPT2Config(**sizes, n_embd=32, n_layer=1, n_head=4))
    else:
        model = hf.LlamaForSequenceClassification(
            hf.LlamaConfig(**sizes,
                           hidden_size=32,
                           intermediate_size=64,
                           num_hidden_layers=1,
                           num_attention_heads=4))
    inputs = {
        "input_ids": torch.randint(3, 96, (64, 128)),
        "labels": torch.randint(0, 3, (64, )),
        "use_cache": False
    }
    return capture(model, inputs, loss_fn=lambda output: output.loss)


class TestDivided(unittest.TestCase):

    def check(self, program: Program, least: float) -> None:
        planning = Planning(program, slow_cluster(4, 1e9))
        plan = planning.from_recipe(RECIPES["ddp"](), MeshSpec(("dp", ),
                                                               (4, )))
        self.assertEqual({c.kind
                          for c in plan.price.collectives}, {"all_reduce"})
        self.assertLess(plan.price.undivided.get("dp", 0.0),
                        least * plan.price.compute_s)

    def test_classifiers_under_data_parallelism(self) -> None:
        for kind in ("gpt2", "llama"):
            with self.subTest(kind):
                program = classifier(kind)
                self.assertIn("gather", labels(program))
                self.check(program, 0.02)

    def test_a_squeezed_loss(self) -> None:

        def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(output.squeeze(), target)

        program = capture(nn.Linear(64, 1),
                          (torch.randn(4096, 64), torch.randn(4096)),
                          loss_fn=loss)
        self.check(program, 0.02)


if __name__ == "__main__":
    unittest.main()
