"""Bags of equal size become lookups; whatever else is asked stays."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.model_zoo import MODELS
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_planning.programs import slow_cluster

ROWS, BAGS, SIZE = 7, 6, 4


class Bag(nn.Module):
    """A bag over ids, with other arguments of the call."""

    def __init__(self, *call: Any, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(ROWS, 3, **options)
        self.linear = nn.Linear(3, 2)
        self.call = call

    def forward(self, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        return self.linear(self.bag(ids, *self.call, *rest))


class Starting(Bag):
    """Of a flat list of ids, with a bag at every `SIZE` up to `end`."""

    def __init__(self, end: int, **options: Any) -> None:
        super().__init__(mode="sum", **options)
        self.end = end

    def forward(self, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        return super().forward(ids, torch.arange(0, self.end, SIZE))


def labels(program: Program) -> set[str]:
    return {
        call.target._schema.name.split("::")[-1]
        for cls in program.classes.values()
        for call in cls.calls if hasattr(call.target, "_schema")
    }


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, ROWS, shape)


class TestBags(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)

    def opened(self, model: nn.Module, *inputs: Any) -> Program:
        program = check_capture(self, *doubled(model, inputs))
        self.assertIn("embedding", labels(program))
        self.assertNotIn("embedding_bag", labels(program))
        return program

    def kept(self, model: nn.Module, *inputs: Any) -> None:
        program = check_capture(self, *doubled(model, inputs))
        self.assertIn("embedding_bag", labels(program))

    def test_every_mode(self) -> None:
        for mode in ("sum", "mean", "max"):
            with self.subTest(mode):
                self.opened(Bag(mode=mode), ids(BAGS, SIZE))
                self.opened(Bag(mode=mode), ids(1, SIZE))
                self.opened(Bag(mode=mode), ids(BAGS, 1))

    def test_padding_is_left_out(self) -> None:
        some = ids(BAGS, SIZE)
        some[0], some[1, 1:] = 2, 2
        for mode in ("sum", "mean"):
            for padding_idx in (2, 2 - ROWS):
                with self.subTest(mode, padding_idx=padding_idx):
                    model = Bag(mode=mode, padding_idx=padding_idx)
                    nn.init.normal_(model.bag.weight)
                    self.opened(model, some)

    def test_weights_of_samples(self) -> None:
        for padding_idx in (None, 2):
            weights = torch.rand(BAGS, SIZE).double().requires_grad_()
            model = Bag(None, mode="sum", padding_idx=padding_idx).double()
            program = check_capture(self, model, (ids(BAGS, SIZE), weights))
            self.assertIn("embedding", labels(program))

    def test_offsets_that_are_computed(self) -> None:
        flat = ids(BAGS * SIZE)

        whole = BAGS * SIZE
        self.opened(Starting(whole), flat)
        self.opened(Starting(whole + 1, include_last_offset=True), flat)
        self.kept(Starting(whole - SIZE), flat)
        self.kept(Starting(whole, include_last_offset=True), flat)

    def test_what_stays(self) -> None:
        offsets = torch.arange(0, BAGS * SIZE, SIZE)
        self.kept(Bag(mode="sum"), ids(BAGS * SIZE), offsets)
        self.kept(Bag(mode="max", padding_idx=2), ids(BAGS, SIZE))
        self.kept(Bag(mode="sum", scale_grad_by_freq=True), ids(BAGS, SIZE))

    def test_the_bag_is_the_output(self) -> None:
        for mode in ("sum", "max"):
            self.opened(nn.EmbeddingBag(ROWS, 3, mode=mode), ids(BAGS, SIZE))

    def test_a_recommender(self) -> None:
        model, inputs, loss_fn = MODELS["dlrm"]()
        model, inputs = doubled(model, inputs)
        program = check_capture(self, model, inputs, loss_fn)
        self.assertNotIn("embedding_bag", labels(program))


class TestDivided(unittest.TestCase):

    def test_bags_under_data_parallelism(self) -> None:
        model = Bag(mode="mean", padding_idx=0)
        program = capture(model, (torch.randint(0, ROWS, (4096, 64)), ),
                          loss_fn=lambda output: output.square().mean())
        planning = Planning(program, slow_cluster(4, 1e9))
        plan = planning.from_recipe(RECIPES["ddp"](), MeshSpec(("dp", ),
                                                               (4, )))
        self.assertEqual(plan.price.undivided, {})
        self.assertEqual({c.kind
                          for c in plan.price.collectives}, {"all_reduce"})


if __name__ == "__main__":
    unittest.main()
