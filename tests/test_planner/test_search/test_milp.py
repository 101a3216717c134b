"""The MILP: units, time limits, nothing to choose."""

from __future__ import annotations

import unittest

import numpy as np

from planner.ir.errors import InfeasiblePlan
from planner.search.eliminate import eliminate
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.milp import solve_milp
from tests.test_planner.test_search.graphs import chain, grid


def times(graph: FactorGraph, factor: float) -> FactorGraph:
    return FactorGraph(
        graph.variables,
        tuple(Factor(f.scope, f.table * factor) for f in graph.factors))


class TestMilp(unittest.TestCase):

    def test_it_agrees_with_elimination(self) -> None:
        for graph in (grid(4, 3), chain(20, 4, 2)):
            solution = solve_milp(graph)
            self.assertTrue(solution.is_optimal)
            self.assertAlmostEqual(solution.value, eliminate(graph).value)

    def test_the_unit_does_not_matter(self) -> None:
        graph = grid(3, 3)
        once = eliminate(graph)
        for unit in (1e-9, 1e9):
            solution = solve_milp(times(graph, unit))
            self.assertEqual(solution.assignment, once.assignment)
            self.assertTrue(solution.is_optimal)

    def test_no_time(self) -> None:
        with self.assertRaisesRegex(InfeasiblePlan,
                                    "does not prove.*raise time_limit_s"):
            solve_milp(grid(8, 8), time_limit_s=0.0)

    def test_nothing_to_choose(self) -> None:
        graph = FactorGraph((), (Factor((), np.array(2.0)), ))
        self.assertEqual(solve_milp(graph).value, 2.0)
        with self.assertRaisesRegex(InfeasiblePlan, "constant"):
            solve_milp(FactorGraph((), (Factor((), np.array(np.inf)), )))

    def test_a_variable_without_factors(self) -> None:
        graph = FactorGraph((Variable("a", 3), ), ())
        self.assertEqual(solve_milp(graph).value, 0.0)


if __name__ == "__main__":
    unittest.main()
