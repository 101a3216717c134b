"""All solvers find what brute force finds."""

from __future__ import annotations

import math
import unittest
from collections.abc import Callable

from hypothesis import given, settings

from planner.ir.errors import InfeasiblePlan
from planner.search.eliminate import eliminate
from planner.search.factors import FactorGraph, Solution
from planner.search.milp import solve_milp
from planner.search.reduce import reduce
from planner.search.solve import solve
from tests.test_planner.test_search.graphs import brute_force, random_graphs

Solver = Callable[[FactorGraph], Solution]


def solve_wide(graph: FactorGraph) -> Solution:
    """Everything that reducing leaves goes to the MILP."""
    return solve(graph, max_table_entries=0)


class TestAgainstBruteForce(unittest.TestCase):

    def check(self, solver: Solver, graph: FactorGraph) -> None:
        best = brute_force(graph)
        if math.isinf(best):
            with self.assertRaises(InfeasiblePlan):
                solver(graph)
            return
        solution = solver(graph)
        self.assertAlmostEqual(solution.value, best, places=6)
        self.assertAlmostEqual(solution.bound, best, places=6)
        self.assertLessEqual(solution.bound, solution.value + 1e-9)
        self.assertEqual(solution.value, graph.value(solution.assignment))
        self.assertEqual(set(solution.assignment),
                         {v.name
                          for v in graph.variables})

    @given(random_graphs())
    @settings(deadline=None, derandomize=True, max_examples=150)
    def test_elimination(self, graph: FactorGraph) -> None:
        self.check(eliminate, graph)
        self.check(solve, graph)

    @given(random_graphs())
    @settings(deadline=None, derandomize=True, max_examples=60)
    def test_milp(self, graph: FactorGraph) -> None:
        self.check(solve_milp, graph)

    @given(random_graphs())
    @settings(deadline=None, derandomize=True, max_examples=60)
    def test_reduced_milp(self, graph: FactorGraph) -> None:
        self.check(solve_wide, graph)

    @given(random_graphs())
    @settings(deadline=None, derandomize=True, max_examples=150)
    def test_reduction(self, graph: FactorGraph) -> None:
        best = brute_force(graph)
        try:
            reduced = reduce(graph)
            small = eliminate(reduced.graph)
        except InfeasiblePlan:
            self.assertTrue(math.isinf(best))
            return
        full = reduced.expand(small.assignment)
        self.assertAlmostEqual(small.value, best, places=9)
        self.assertAlmostEqual(graph.value(full), best, places=9)


if __name__ == "__main__":
    unittest.main()
