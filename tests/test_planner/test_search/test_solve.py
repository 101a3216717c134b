"""Which solver is taken, and what an infeasible graph is told."""

from __future__ import annotations

import unittest
from unittest import mock

import numpy as np
from hypothesis import given

from planner.ir.errors import InfeasiblePlan
from planner.search import solve as solving
from planner.search.conflict import clashing
from planner.search.eliminate import eliminate
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.solve import solve
from tests.test_planner.test_search.graphs import chain, grid, random_graphs

SAME = np.where(np.eye(3, dtype=bool), 0.0, np.inf)


def pin(name: str, state: int) -> Factor:
    return Factor((name, ), SAME[state])


def pinned_chain(*pins: Factor) -> FactorGraph:
    """Ten variables that must all be in the same state."""
    names = [f"v{i}" for i in range(10)]
    links = [Factor(pair, SAME) for pair in zip(names, names[1:])]
    return FactorGraph(tuple(Variable(n, 3) for n in names), (*pins, *links))


class TestSolve(unittest.TestCase):

    def test_narrow_graphs_are_eliminated(self) -> None:
        solution = solve(chain(50, 4, 3))
        self.assertEqual(solution.method, "elimination")
        self.assertEqual(solution.width, 3)
        self.assertTrue(solution.is_optimal)

    def test_large_graphs_are_relaxed_first(self) -> None:
        """Where the relaxation is not tight, they are eliminated."""
        graphs = {"relaxation": chain(12, 4, 2), "elimination": grid(4, 6)}
        for method, graph in graphs.items():
            exact = eliminate(graph)
            with self.subTest(method), \
                    mock.patch.multiple(solving, _MANY_ENTRIES=0,
                                        _SMALL_ENTRIES=6**3):
                solution = solve(graph)
                self.assertEqual(solution.method, method)
                self.assertTrue(solution.is_optimal)
                np.testing.assert_allclose(solution.value, exact.value)

    @given(random_graphs())
    def test_small_tables_are_no_less_exact(self, graph: FactorGraph) -> None:
        try:
            exact = eliminate(graph).value
        except InfeasiblePlan:
            return
        with mock.patch.multiple(solving, _MANY_ENTRIES=0, _SMALL_ENTRIES=4):
            found = solve(graph)
        np.testing.assert_allclose(found.value, exact, atol=1e-12)
        np.testing.assert_allclose(found.bound, exact, atol=1e-12)

    def test_wide_graphs_go_to_the_milp(self) -> None:
        graph = grid(4, 6)
        solution = solve(graph, max_table_entries=36)
        self.assertEqual(solution.method, "milp")
        self.assertAlmostEqual(solution.value, eliminate(graph).value)

    def test_wide_graphs_within_a_slack(self) -> None:
        graph = grid(4, 6)
        optimum = eliminate(graph).value
        for slack in (0.0, 1e-3 * optimum, 0.2 * optimum, np.inf):
            with self.subTest(slack=slack):
                found = solve(graph, max_table_entries=36, slack=slack)
                self.assertLessEqual(found.bound, optimum * (1 + 1e-9))
                self.assertLessEqual(found.value - found.bound, slack + 1e-9)
        self.assertEqual(found.method, "relaxation")

    def test_what_could_be_eliminated_is_relaxed_where_that_is_enough(
            self) -> None:
        graph = grid(4, 6)
        optimum = eliminate(graph).value
        for slack, relax, method in ((np.inf, False, "elimination"),
                                     (np.inf, True, "relaxation"),
                                     (0.0, True, "elimination")):
            with self.subTest(slack=slack, relax=relax), mock.patch.multiple(
                    solving, _MANY_ENTRIES=0, _SMALL_ENTRIES=4):
                found = solve(graph, slack=slack, relax=relax)
                self.assertEqual(found.method, method)
                self.assertLessEqual(found.bound, optimum * (1 + 1e-9))

    def test_high_prices_do_not_blunt_the_milp(self) -> None:
        graph = grid(4, 6)
        factors = tuple(
            Factor(
                f.scope, f.table * 1e-6 + 1e3 *
                (np.arange(f.table.size) % 7 == 3).reshape(f.table.shape))
            for f in graph.factors)
        graph = FactorGraph(graph.variables, factors)
        solution = solve(graph, max_table_entries=36)
        self.assertEqual(solution.method, "milp")
        self.assertTrue(solution.is_optimal)
        np.testing.assert_allclose(solution.value, eliminate(graph).value)

    def test_components_are_solved_on_their_own(self) -> None:
        wide, tree = grid(4, 6), chain(4, 3, 3)
        both = FactorGraph(wide.variables + tree.variables,
                           wide.factors + tree.factors)
        solution = solve(both, max_table_entries=36)
        self.assertAlmostEqual(solution.value,
                               solve(wide).value + solve(tree).value)
        self.assertIn("milp", solution.method)

    def test_work_beyond_the_time_limit_goes_to_the_milp(self) -> None:
        graph = grid(7, 6)
        self.assertEqual(solve(graph).method, "elimination")
        solution = solve(graph, time_limit_s=0.0)
        self.assertIn(solution.method, ("milp", "relaxation"))
        self.assertGreaterEqual(solution.value, solve(graph).value)
        self.assertLessEqual(solution.bound, solve(graph).value)
        self.assertFalse(solution.is_optimal)

    def test_no_variables(self) -> None:
        graph = FactorGraph((), (Factor((), np.array(4.0)), ))
        self.assertEqual(solve(graph).value, 4.0)
        self.assertEqual(solve(graph, max_table_entries=-1).value, 4.0)

    def test_same_input_same_plan(self) -> None:
        rng = np.random.default_rng(0)
        graph = chain(20, 4, 3)
        ties = FactorGraph(
            graph.variables,
            tuple(
                Factor(f.scope,
                       rng.integers(0, 2, f.table.shape) + 0.0)
                for f in graph.factors))
        for limit in (2**20, 4**3):
            runs = [solve(ties, max_table_entries=limit) for _ in range(2)]
            self.assertEqual(*[dict(r.assignment) for r in runs])


class TestInfeasible(unittest.TestCase):

    def test_the_pins_that_clash_are_named(self) -> None:
        graph = pinned_chain(pin("v2", 1), pin("v3", 1), pin("v5", 1),
                             pin("v8", 2))
        with self.assertRaises(InfeasiblePlan) as caught:
            solve(graph)
        names = caught.exception.variables
        self.assertEqual(len(names), 2)
        self.assertEqual(names[1], "v8")
        self.assertRegex(str(caught.exception),
                         f"10 variables.*'{names[0]}', 'v8'; lift a pin")

    def test_links_that_clash_are_named(self) -> None:
        graph = pinned_chain()
        odd = Factor(("v3", "v5"), np.where(np.eye(3) > 0, np.inf, 0.0))
        graph = FactorGraph(graph.variables, (*graph.factors, odd))
        self.assertEqual(clashing(graph), ("v3", "v4", "v5"))

    def test_the_milp_names_them_too(self) -> None:
        graph = pinned_chain(pin("v0", 0), pin("v9", 1))
        with self.assertRaisesRegex(InfeasiblePlan, "'v0', 'v9'"):
            solve(graph, max_table_entries=0)

    def test_a_feasible_graph_has_no_clash(self) -> None:
        self.assertEqual(clashing(pinned_chain(pin("v0", 0))), ())


if __name__ == "__main__":
    unittest.main()
