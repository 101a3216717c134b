"""Work so small that the host's launches are what takes time."""

from __future__ import annotations

import unittest
from unittest import mock

import torch

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.joint.score import CellScores
from planner.joint.search import JointSearch
from planner.joint.space import Point
from planner.planning import Planning
from scaletorch.choose import searched_meshes
from scaletorch.models.gpt2 import GPT2, GPT2Config


class TestHost(unittest.TestCase):

    def test_scores_know_what_launches_take_at_least(self) -> None:
        with torch.device("meta"):
            model = GPT2(
                GPT2Config(width=64, depth=4, heads=4, vocabulary_size=128))
            tokens = torch.zeros(8, 32, dtype=torch.int64)
        planning = Planning(capture(model, (tokens, tokens)),
                            load_cluster("h100-sxm:1x4"))
        shares: list[float] = []
        original = JointSearch.price

        def price(own: JointSearch, point: Point,
                  scores: CellScores) -> Candidate | None:
            found = original(own, point, scores)
            if found is not None:
                shares.append(scores.time_s(point) / found.time_s)
            return found

        meshes = searched_meshes(MeshSpec(("dp", ), (4, )), flat=True)
        with mock.patch.object(JointSearch, "price", price):
            best = planning.candidates(meshes)[0]
        step = best.price.step
        assert step is not None
        self.assertGreater(step.host_s, 0.3 * step.time_s)
        self.assertLess(max(shares), 1 + 1e-9)
        self.assertGreater(max(shares), 0.9)


if __name__ == "__main__":
    unittest.main()
