"""Unequal shares of the batch: ranks compute what one device does."""

from __future__ import annotations

import copy
import dataclasses
import unittest
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.cluster.load import load_cluster
from planner.ir.errors import LayoutError
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.verify_shares import verify_shares
from planner.planning import Planning
from planner.recipes import Recipe
from scaletorch import data, parallel
from scaletorch.dist import run_ranks
from scaletorch.feed import feed
from scaletorch.verify import verify
from tests.test_scaletorch.small import batch, check_same, seeded, spread
from tests.test_scaletorch.test_feed import CONFIG, Tagger

SHARES = {"dp": (3, 1)}


class Classes(nn.Module):
    """Batch norm, a mean over tokens that count, dropout, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.down = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        found = self.down(self.drop(F.gelu(self.norm(self.up(x)))))
        kept = F.cross_entropy(found, y, ignore_index=0)
        return {"loss": kept + found.square().mean(), "found": found}


class Pairs(nn.Module):
    """Every sample against every other one, as contrastive losses do."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.left(x) @ self.right(x).T
        return F.cross_entropy(scores, torch.arange(len(x)))


class Attends(nn.Module):
    """One layer of attention over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [
            p(x).unflatten(-1, (4, 2)).transpose(1, 2) for p in self.project
        ]
        return F.scaled_dot_product_attention(*heads, is_causal=True).mean()


def classes() -> dict[str, torch.Tensor]:
    x, _ = batch()
    return {"x": x, "y": torch.tensor([0, 1, 2, 3, 0, 0, 2, 1])}


def shared(model: nn.Module, inputs: Any, recipe: Recipe, axes: dict[str, int],
           shares: dict[str, tuple[int, ...]]) -> Plan:
    """A recipe's plan, with shares of the batch."""
    planning = Planning(capture(model, inputs), load_cluster("cpu-gloo:4"))
    found = planning.from_recipe(recipe,
                                 MeshSpec(tuple(axes), tuple(axes.values())))
    return dataclasses.replace(planning.plan_of(found), shares=shares)


class TestShares(unittest.TestCase):

    def holds(self, model: nn.Module, inputs: Any, recipe: Recipe,
              axes: dict[str, int], shares: dict[str, tuple[int,
                                                            ...]]) -> None:
        plan = shared(model, inputs, recipe, axes, shares)
        self.assertEqual(Plan.from_yaml(plan.to_yaml()), plan)
        report = verify(model, plan, inputs)
        self.assertTrue(report.equal, report)

    def test_data_parallel(self) -> None:
        self.holds(seeded(Classes), classes(), parallel.ddp(), {"dp": 2},
                   SHARES)

    def test_sharded_parameters_are_divided_evenly(self) -> None:
        self.holds(seeded(Classes), classes(), parallel.fsdp(), {"dp": 2},
                   {"dp": (1, 3)})

    def test_beside_tensor_parallelism(self) -> None:
        self.holds(seeded(Classes), classes(),
                   parallel.ddp() * parallel.megatron(), {
                       "dp": 2,
                       "tp": 2
                   }, SHARES)

    def test_samples_that_meet(self) -> None:
        self.holds(seeded(Pairs),
                   batch()[:1], parallel.ddp(), {"dp": 2}, SHARES)

    def test_training_and_local_rows(self) -> None:
        config = {**CONFIG, "length": 16}

        def losses(model: nn.Module, batches: Any,
                   **options: Any) -> list[torch.Tensor]:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            found = []
            for rows in batches:
                loss = model(**rows, **options)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                found.append(loss.detach())
            return found

        model, example = seeded(Tagger), data.build(config).example()
        plan = shared(model, example, parallel.fsdp(), {"dp": 2}, SHARES)
        expected = losses(copy.deepcopy(model), data.build(config))

        def work(rank: int) -> tuple[list[int], list[torch.Tensor]]:
            del rank
            mine = spread(copy.deepcopy(model), example, {"dp": 2}, plan)
            rows = list(feed(data.build(config), mine))
            return ([len(r["tokens"])
                     for r in rows], losses(mine, rows, inputs="local"))

        for length, (lengths, found) in zip((6, 2), run_ranks(2, work)):
            self.assertEqual(lengths, [length] * 2)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    def test_a_call_that_does_not_divide_is_shared_evenly(self) -> None:
        model = seeded(Classes).eval()
        plan = shared(model, classes(), parallel.ddp(), {"dp": 2}, SHARES)

        def body(model: nn.Module) -> dict[str, Any]:
            rows = {n: t[:6] for n, t in classes().items()}
            return {"found": model(**rows)["found"].detach()}

        check_same(self, model, classes(), body, {"dp": 2}, plan)


class TestRefused(unittest.TestCase):

    def raised(self, error: type[Exception], text: str, recipe: Recipe,
               axes: dict[str, int], shares: dict[str, tuple[int,
                                                             ...]]) -> None:
        with self.assertRaisesRegex(error, text):
            plan = shared(seeded(Classes), classes(), recipe, axes, shares)
            self.resolve(seeded(Classes), classes(), plan)

    def resolve(self, model: nn.Module, inputs: Any, plan: Plan) -> None:
        program = capture(model, inputs)
        verify_shares(program, plan.resolve(program))

    def test_what_does_not_divide(self) -> None:
        self.raised(
            LayoutError, r"divided dims divide by the shares, but: "
            r"input:\d of shape \(8,.* in shares of dp: 2:1; choose shares "
            "whose sum divides the batch", parallel.ddp(), {"dp": 2},
            {"dp": (2, 1)})

    def test_an_axis_that_divides_weights(self) -> None:
        self.raised(
            LayoutError, "parameters are whole in use over an axis of "
            "unequal shares, but: param:up.weight is used as",
            parallel.megatron(), {"tp": 2}, {"tp": (3, 1)})

    def test_an_axis_of_the_sequence(self) -> None:
        for recipe, text in (
            (parallel.gather_kv(), "what a call does over an axis of unequal "
             "shares is weighed by them, but: .*sdpa_query_shard"),
            (parallel.ulysses(), "shards of unequal shares are only cut, "
             "summed and gathered, but: .* from S")):
            inputs = (torch.randn(2, 8, 8, dtype=torch.float64), )
            with self.assertRaisesRegex(LayoutError, text):
                plan = shared(seeded(Attends), inputs, recipe, {"cp": 2},
                              {"cp": (3, 1)})
                self.resolve(seeded(Attends), inputs, plan)

    def test_pipelines(self) -> None:
        self.raised(ValueError, "shares of the batch are not built for "
                    "pipelines",
                    parallel.pipeline(batch_statistics="microbatch"),
                    {"pp": 2}, {"pp": (3, 1)})

    def test_shares_that_are_none(self) -> None:
        for shares, text in (({
                "dp": (3, )
        }, "1 for 2 ranks"), ({
                "dp": (2, 0)
        }, "every rank computes something"), ({
                "tp": (3, 1)
        }, "no axis 'tp'")):
            self.raised(ValueError, text, parallel.ddp(), {"dp": 2}, shares)


if __name__ == "__main__":
    unittest.main()
