"""Which plan is taken, and what of it is kept where the model is planned
again."""

from __future__ import annotations

import dataclasses
import unittest

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from scaletorch.choose import Chosen, Replan, choose, fingerprint
from tests.test_planner.test_pipeline.models import Row
from tests.test_planner.test_planning.programs import slow_cluster


class Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(torch.tanh(self.product(x)))


class TestChoose(unittest.TestCase):

    def test_stages_only_where_nothing_else_fits(self) -> None:
        """And then nothing is priced again that has none."""
        program = capture(Row(8), (torch.zeros(256, 8), torch.zeros(256, 8)),
                          loss_fn=nn.functional.mse_loss)
        mesh, cluster = MeshSpec(("dp", ), (2, )), slow_cluster(2, 1e9)
        roomy = Planning(program, cluster)
        chosen, *_ = choose(roomy, None, mesh, flat=True)
        self.assertIsNone(chosen.plan.pipeline)
        seen: list[Candidate] = []
        tight = Planning(program,
                         cluster,
                         memory_limit_bytes=50_000,
                         observer=seen.append)
        chosen, *_ = choose(tight, None, mesh, flat=True)
        self.assertIsNotNone(chosen.plan.pipeline)
        staged = [c.pipeline is not None for c in seen]
        self.assertEqual(staged, sorted(staged))
        self.assertIn(False, staged)


class TestReplan(unittest.TestCase):

    def test_recomputes_in_the_other_mode_too(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), Layer(), Layer())
        example = (torch.zeros(4, 8), torch.zeros(4, 8))
        train, infer = (capture(model.train(mode),
                                example,
                                loss_fn=nn.functional.mse_loss)
                        for mode in (True, False))
        self.assertNotEqual(fingerprint(train, with_shapes=False),
                            fingerprint(infer, with_shapes=False))
        planning = Planning(train, load_cluster("cpu-gloo").resized(2))
        made = planning.from_recipe(RECIPES["ddp"](), MeshSpec(("dp", ),
                                                               (2, )))
        plan = dataclasses.replace(planning.plan_of(made),
                                   recompute=("Layer", ))
        replan = Replan(planning, train,
                        Chosen(plan=plan, policies=made.policies))
        self.assertEqual(replan(infer).recompute, {"Layer"})


if __name__ == "__main__":
    unittest.main()
