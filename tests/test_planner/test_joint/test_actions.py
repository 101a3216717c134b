"""Processors, on which each action of a schedule costs a call."""

from __future__ import annotations

import dataclasses
import unittest
from unittest import mock

import torch

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cluster.device import Coefficient
from planner.cluster.spec import ClusterSpec
from planner.ir.mesh import MeshSpec
from planner.joint.score import CellScores
from planner.joint.search import JointSearch
from planner.joint.space import Point
from planner.planning import Planning
from scaletorch.choose import searched_meshes
from scaletorch.models.gpt2 import GPT2, GPT2Config


def _processors(call_s: float, alone_speedup: float = 1.0) -> ClusterSpec:
    """With links so slow that stages are worth it."""
    cluster = load_cluster("cpu-gloo").resized(4)
    tiers = tuple(
        dataclasses.replace(
            t, link=dataclasses.replace(t.link, bandwidth_bytes_per_s=1e8))
        for t in cluster.tiers)
    own = tuple(
        Coefficient(name=n, value=v, source="")
        for n, v in (("message_s", 1e-6), ("call_s", call_s), ("alone_speedup",
                                                               alone_speedup)))
    return dataclasses.replace(cluster,
                               tiers=tiers,
                               device=dataclasses.replace(
                                   cluster.device,
                                   coefficients=(*cluster.device.coefficients,
                                                 *own)))


class TestActions(unittest.TestCase):

    def setUp(self) -> None:
        with torch.device("meta"):
            model = GPT2(
                GPT2Config(width=512, depth=4, heads=4, vocabulary_size=128))
            tokens = torch.zeros(8, 32, dtype=torch.int64)
        self.program = capture(model, (tokens, tokens))

    def _shares(self, call_s: float) -> list[float]:
        """Of the prices of staged plans, their scores."""
        shares: list[float] = []
        original = JointSearch.price

        def price(own: JointSearch, point: Point,
                  scores: CellScores) -> Candidate | None:
            found = original(own, point, scores)
            if found is not None and point.is_staged:
                shares.append(scores.simulated_s(point) / found.time_s)
            return found

        meshes = searched_meshes(MeshSpec(("dp", ), (4, )), flat=True)
        with mock.patch.object(JointSearch, "price", price):
            Planning(self.program, _processors(call_s)).candidates(meshes)
        return shares

    def test_scores_have_them(self) -> None:
        few, many = self._shares(1e-6), self._shares(1e-3)
        self.assertLess(max(*few, *many), 1 + 1e-9)
        self.assertGreater(min(many), min(few))

    def test_fewer_micro_batches_than_stages(self) -> None:
        planning = Planning(self.program, _processors(1e-4, 2.0))
        search = JointSearch(planning, 4)
        few = [
            p for c in search.space.cells() for p in search.space.ways(c)
            if p.microbatches < p.pp
        ]
        self.assertTrue(few)
        for point in few:
            scores = search.scores(point.cell)
            assert scores is not None
            found = search.price(point, scores)
            assert found is not None
            simulated_s = scores.simulated_s(point)
            self.assertLess(
                scores.score(point).time_s, simulated_s * (1 + 1e-9))
            self.assertLess(simulated_s, found.time_s * (1 + 1e-9))
            self.assertLess(0.8 * found.time_s, simulated_s)
