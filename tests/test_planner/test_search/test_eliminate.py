"""Elimination: limits, ties, and many tables at once."""

from __future__ import annotations

import math
import unittest

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.ir.errors import InfeasiblePlan
from planner.search.eliminate import (eliminate, eliminate_batch,
                                      eliminate_relaxed)
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.order import best_order
from planner.search.solve import solve
from tests.test_planner.test_search.graphs import (brute_force, chain, grid,
                                                   random_graphs)


def one_by_one(graph: FactorGraph, tables: list[np.ndarray],
               index: int) -> FactorGraph:
    return FactorGraph(
        graph.variables,
        tuple(
            Factor(f.scope, t[..., index % t.shape[-1]])
            for f, t in zip(graph.factors, tables, strict=True)))


class TestEliminate(unittest.TestCase):

    def test_ties_are_deterministic(self) -> None:
        graph = FactorGraph(tuple(Variable(n, 3) for n in "bca"), (Factor(
            ("a", "b"), np.ones((3, 3))), Factor(("b", "c"), 1.0 - np.eye(3))))
        first = eliminate(graph)
        self.assertEqual(dict(first.assignment), {"a": 0, "b": 0, "c": 0})
        self.assertEqual(first.assignment, eliminate(graph).assignment)

    def test_too_wide_is_refused_before_any_work(self) -> None:
        with self.assertRaisesRegex(ValueError, "table of .* raise max_table"):
            eliminate(grid(20, 10))

    def test_the_limit_counts_the_summed_table(self) -> None:
        graph = chain(10, 4, 2)
        self.assertEqual(eliminate(graph, max_table_entries=4**3).width, 2)
        with self.assertRaises(ValueError):
            eliminate(graph, max_table_entries=4**3 - 1)

    def test_large_tables_are_minimised_in_blocks(self) -> None:
        # Whole, by state, by rows, by rows of rows.
        for states, width in ((10, 2), (20, 3), (50, 3), (20, 4)):
            graph = chain(width + 3, states, width)
            solution = eliminate(graph)
            self.assertAlmostEqual(solution.value, solution.bound)
            # Whatever is folded beforehand leaves another order.
            self.assertAlmostEqual(solution.value, solve(graph).value)

    def test_tables_are_left_as_they_were(self) -> None:
        graph = FactorGraph((Variable("a", 400), Variable("b", 400)), (Factor(
            ("a", "b"), np.eye(400)), ))
        eliminate(graph)
        np.testing.assert_array_equal(graph.factors[0].table, np.eye(400))

    def test_no_variables(self) -> None:
        graph = FactorGraph((), (Factor((), np.array(3.0)), ))
        self.assertEqual(eliminate(graph).value, 3.0)

    def test_a_constant_may_be_illegal(self) -> None:
        graph = FactorGraph((Variable("a", 2), ), (Factor(
            (), np.array(np.inf)), ))
        with self.assertRaises(InfeasiblePlan):
            eliminate(graph)


class TestRelaxed(unittest.TestCase):

    @given(random_graphs(), st.integers(1, 64))
    @settings(deadline=None, derandomize=True)
    def test_it_bounds_the_minimum(self, graph: FactorGraph,
                                   limit: int) -> None:
        best = brute_force(graph)
        relaxed = eliminate_relaxed(graph, max_table_entries=limit)
        self.assertLessEqual(relaxed.bound, best + 1e-9)
        self.assertGreaterEqual(relaxed.value, best - 1e-9)
        self.assertEqual(relaxed.value, graph.value(relaxed.assignment))

    def test_it_is_exact_where_nothing_is_too_large(self) -> None:
        graph = chain(20, 4, 2)
        relaxed = eliminate_relaxed(graph, max_table_entries=4**3)
        self.assertTrue(relaxed.is_optimal)
        self.assertFalse(
            eliminate_relaxed(graph, max_table_entries=4**2).is_optimal)


class TestBatch(unittest.TestCase):

    @given(random_graphs(), st.integers(1, 4), st.sampled_from([1, 100,
                                                                2**20]))
    @settings(deadline=None, derandomize=True)
    def test_equals_one_by_one(self, graph: FactorGraph, batch: int,
                               limit: int) -> None:
        prices = np.linspace(0.0, 1.0, batch)
        tables = [
            f.table[..., None] if i % 3 else f.table[..., None] +
            prices * np.arange(f.table.size).reshape(*f.table.shape, 1)
            for i, f in enumerate(graph.factors)
        ]
        limit = max(limit,
                    best_order(graph).kept_entries,
                    best_order(graph).largest_entries)
        found = eliminate_batch(graph, tables, max_table_entries=limit)
        for i, value in enumerate(found.values):
            single = one_by_one(graph, tables, i)
            if math.isinf(value):
                self.assertRaises(InfeasiblePlan, eliminate, single)
                continue
            self.assertAlmostEqual(value, eliminate(single).value, places=9)
            self.assertAlmostEqual(value,
                                   single.value(found.assignment(i)),
                                   places=9)

    def test_large_tables(self) -> None:
        graph = chain(6, 20, 3)
        tables = [
            f.table[..., None] * np.array([1.0, 2.0]) for f in graph.factors
        ]
        once = eliminate(graph).value
        np.testing.assert_allclose(
            eliminate_batch(graph, tables).values, [once, 2 * once])

    def test_what_does_not_fit(self) -> None:
        graph = FactorGraph((Variable("a", 2), Variable("b", 2)), (Factor(
            ("a", ), np.zeros(2)), Factor(("b", ), np.zeros(2))))
        zeros = np.zeros
        cases = [
            ("1 tables for 2", [zeros((2, 3))]),
            (r"shape \(2,\); it needs \(2,\) and", [zeros((2, 3)),
                                                    zeros(2)]),
            (r"\[1, 3, 4\]", [zeros((2, 3)), zeros((2, 4))]),
            ("the batch is empty", [zeros((2, 0)),
                                    zeros((2, 1))]),
        ]
        for message, tables in cases:
            with self.subTest(message):
                with self.assertRaisesRegex(ValueError, message):
                    eliminate_batch(graph, tables)


if __name__ == "__main__":
    unittest.main()
