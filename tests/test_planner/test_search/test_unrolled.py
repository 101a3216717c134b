"""Variables that are one choice, and the loops whose runs are."""

from __future__ import annotations

import collections
import itertools
import unittest
from unittest import mock

import numpy as np
import torch
from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES, policies_for
from planner.search import solve as solving
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.layouts import replicated_layout
from planner.search.problem import AxisProblem, draft_of
from planner.search.solve import solve
from planner.search.tied import Alike
from planner.search.unrolled import iterations
from tests.test_planner.test_search.graphs import grid

_ALIKE = Alike(first=dict.fromkeys("ace", "a"),
               states={
                   "a": np.array([0, 1]),
                   "c": np.array([2, 0]),
                   "e": np.array([1, 2])
               })


def random_chain() -> FactorGraph:
    rng = np.random.default_rng(0)
    names = "abcdef"
    scopes = [*zip(names, names[1:]), ("a", "c"), ("c", "e", "a"), ("d", )]
    return FactorGraph(
        tuple(Variable(n, 3) for n in names),
        tuple(Factor(s, rng.random([3] * len(s))) for s in scopes))


class Chunks(nn.Module):
    """Linear attention over chunks of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.out = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (read(x).unflatten(-1, (8, 8)).transpose(1, 2)
                   for read in self.reads)
        state = torch.zeros(x.shape[0], 8, 8, 8)
        found = []
        for i in range(0, x.shape[1], 4):
            queries, keys = q[:, :, i:i + 4], k[:, :, i:i + 4]
            values = v[:, :, i:i + 4]
            inside = queries @ keys.transpose(-1, -2)
            found.append(queries @ state + inside @ values)
            state = state + keys.transpose(-1, -2) @ values
        y = torch.cat(found, 2).transpose(1, 2).flatten(2)
        return self.out(y).square().mean()


class TestAlike(unittest.TestCase):

    def test_the_best_that_is_alike(self) -> None:
        graph = random_chain()
        tied = _ALIKE.tied(graph)
        self.assertEqual([v.name for v in tied.variables], list("abdf"))
        found = solve(tied)
        every = _ALIKE.expanded(found.assignment, "abcdef")
        np.testing.assert_allclose(graph.value(every), found.value)
        best = min(
            graph.value(_ALIKE.expanded(dict(zip("abdf", states)), "abcdef"))
            for states in itertools.product(range(2), *[range(3)] * 3))
        np.testing.assert_allclose(found.value, best)

    def test_wide_graphs_are_laid_out_alike(self) -> None:
        graph = grid(6, 3)
        names = [v.name for v in graph.variables]
        alike = Alike(first={n: names[0]
                             for n in names},
                      states={n: np.arange(3)
                              for n in names})
        few = dict(_ROUGH_ENTRIES=(3, ), _MOST_COLUMNS=0)
        with mock.patch.multiple(solving, **few):
            found = solve(graph, max_table_entries=9, alike=lambda: alike)
        one = min(graph.value(dict.fromkeys(names, s)) for s in range(3))
        self.assertLessEqual(found.value, one)
        self.assertLessEqual(found.bound, solve(graph).value)


class TestIterations(unittest.TestCase):

    def setUp(self) -> None:
        program = capture(Chunks(), (torch.zeros(8, 64, 64), ), opaque=False)
        planning = Planning(program, load_cluster("h100-sxm").resized(8))
        mesh = MeshSpec(("tp", ), (8, ))
        policy, = policies_for(RECIPES["megatron"](), mesh)
        self.problem = AxisProblem(facts=planning.facts,
                                   layout=replicated_layout(
                                       planning.facts, mesh),
                                   axis=0,
                                   policy=policy,
                                   tables=planning.tables(mesh),
                                   device=planning.cluster.device)
        self.draft = draft_of(self.problem)

    def test_runs_of_a_line(self) -> None:
        alike = iterations(self.problem, self.draft)
        groups = collections.Counter(alike.first.values())
        self.assertEqual(groups["call Chunks matmul"], 16)
        # What reads the state of the run before is otherwise in the first.
        self.assertEqual(groups["call Chunks matmul.5"], 15)
        self.assertNotIn("call Chunks reads.0.linear", alike.first)

    def test_they_are_laid_out_as_well_as_apart(self) -> None:
        graph = self.draft.graph()
        best = solve(graph)
        few = dict(_ROUGH_ENTRIES=(64, ), _MOST_COLUMNS=0)
        with mock.patch.multiple(solving, **few):
            found = solve(graph,
                          max_table_entries=64,
                          alike=lambda: iterations(self.problem, self.draft))
        self.assertTrue(best.is_optimal)
        np.testing.assert_allclose(found.value, best.value)
        self.assertLessEqual(found.bound, best.value)


if __name__ == "__main__":
    unittest.main()
