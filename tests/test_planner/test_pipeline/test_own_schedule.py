"""The schedule "auto" is one for the stages as they are."""

from __future__ import annotations

import dataclasses
import functools
import unittest

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner import recipes
from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.planning import Planning
from planner.schedule.check import check_schedule
from planner.schedule.text import parse_schedule
from scaletorch.runtime.ranks import run_ranks
from tests.test_planner.test_planning.programs import slow_cluster

_PARTS = 4


class _Layer(nn.Module):

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(16, width)
        self.down = nn.Linear(width, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())


class _Uneven(nn.Module):
    """The first two layers take most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(w) for w in (512, 512, 64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


@functools.cache
def _program() -> Program:
    return capture(_Uneven(), (torch.randn(8, 16), ))


def _candidate(schedule: str,
               memory_limit_bytes: int | None = None) -> Candidate:
    planning = Planning(_program(),
                        slow_cluster(4, 1e9),
                        memory_limit_bytes=memory_limit_bytes)
    chosen = recipes.pipeline(schedule=schedule,
                              microbatches=_PARTS,
                              cuts=["layers.1", "layers.2", "layers.3"])
    return planning.from_recipe(chosen, MeshSpec(("pp", ), (4, )))


def _candidate_of(pipeline: PipelineSpec) -> Candidate:
    planning = Planning(_program(), slow_cluster(4, 1e9))
    recipe = dataclasses.replace(recipes.pipeline(), pipeline=pipeline)
    return planning.from_recipe(recipe, MeshSpec(("pp", ), (4, )))


class TestOwnSchedule(unittest.TestCase):

    def test_text_in_plan(self) -> None:
        found = _candidate("auto")
        assert found.pipeline is not None
        text = found.pipeline.schedule
        check_schedule(parse_schedule(text), stages=4, microbatches=_PARTS)
        planning = Planning(_program(), slow_cluster(4, 1e9))
        plan = planning.plan_of(found)
        written = plan.to_yaml()
        for line in text.splitlines():
            self.assertIn(f"    {line}\n", written)
        self.assertEqual(Plan.from_yaml(written).pipeline, found.pipeline)
        self.assertIn("schedule", found.name)
        again = planning.of_plan(Plan.from_yaml(written))
        self.assertEqual(again.time_s, found.time_s)

    def test_no_slower_than_named(self) -> None:
        found = _candidate("auto")
        named = [_candidate(n).time_s for n in ("gpipe", "1f1b", "zbh1")]
        self.assertLessEqual(found.time_s, min(named) * (1 + 1e-9))
        self.assertEqual(found.pipeline, _candidate("auto").pipeline)

    def test_keeps_to_memory(self) -> None:
        free = _candidate("auto")
        limit = free.memory.total - 1
        tight = _candidate("auto", limit)
        self.assertLessEqual(tight.memory.total, limit)
        self.assertGreaterEqual(tight.time_s, free.time_s)

    def test_memory_that_no_order_keeps_to(self) -> None:
        found = _candidate("auto", 1)
        self.assertGreater(found.memory.total, 1)
        self.assertEqual(found.pipeline, _candidate("auto").pipeline)

    def test_runs(self) -> None:
        torch.manual_seed(0)
        model, x = _Uneven().double(), torch.randn(8, 16).double()
        plan = recipes.pipeline(schedule="auto", microbatches=_PARTS)

        def body(rank: int) -> tuple[str, float]:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("pp", ))
            module = scaletorch.auto_parallelize(model,
                                                 mesh,
                                                 example_inputs=(x, ),
                                                 cluster="cpu-gloo",
                                                 plan=plan)
            loss = module(x)
            loss.backward()
            pipeline = module.plan.pipeline
            assert pipeline is not None
            return pipeline.schedule, float(loss.detach())

        found = run_ranks(2, body)
        self.assertEqual(found[0], found[1])
        self.assertIn("\n", found[0][0])
        self.assertAlmostEqual(found[0][1],
                               float(model(x).detach()),
                               places=12)

    def test_text_for_other_numbers(self) -> None:
        found = _candidate("auto").pipeline
        assert found is not None
        wrong = dataclasses.replace(found, microbatches=2)
        with self.assertRaisesRegex(
                ValueError,
                "the schedule's text is for 4 micro-batches, and 2"):
            _candidate_of(wrong)


if __name__ == "__main__":
    unittest.main()
