"""What the presolve removes."""

from __future__ import annotations

import unittest

import numpy as np

from planner.ir.errors import InfeasiblePlan
from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.reduce import Reduced, reduce
from tests.test_planner.test_search.graphs import chain

INF = np.inf


def clique(states: int, extra: tuple[Factor, ...] = ()) -> FactorGraph:
    """Five variables, all linked, which can't be folded."""
    rng = np.random.default_rng(0)
    names = "abcde"
    factors = [
        Factor((a, b),
               rng.permutation(states**2).reshape(states, states) + .5)
        for i, a in enumerate(names) for b in names[:i]
    ]
    return FactorGraph(tuple(Variable(n, states) for n in names),
                       (*factors, *extra))


def sizes(reduced: Reduced) -> dict[str, int]:
    return reduced.graph.sizes


class TestReduce(unittest.TestCase):

    def test_trees_fold_away(self) -> None:
        reduced = reduce(chain(30, 4, 1))
        self.assertEqual(reduced.graph.variables, ())
        self.assertEqual(len(reduced.folds), 30)

    def test_a_series_folds_and_its_tables_do_not_grow(self) -> None:
        self.assertEqual(reduce(chain(30, 4, 2)).graph.variables[1:], ())

    def test_a_variable_with_one_state_links_nothing(self) -> None:
        # Folding it would leave one table over all the others.
        pin = np.array([INF, 0.0, INF, INF, INF, INF])
        reduced = reduce(clique(6, (Factor(("c", ), pin), )))
        self.assertEqual(sorted(sizes(reduced)), list("abde"))
        self.assertEqual(max(len(f.scope) for f in reduced.graph.factors), 2)
        self.assertEqual(reduced.expand(dict.fromkeys("abde", 0))["c"], 1)

    def test_parallel_factors_are_merged(self) -> None:
        graph = clique(6, (Factor(("a", "b"), np.zeros(
            (6, 6))), Factor(("b", "a"), np.zeros((6, 6)))))
        scopes = [frozenset(f.scope) for f in reduce(graph).graph.factors]
        self.assertEqual(len(scopes), len(set(scopes)))

    def test_illegal_states_go_in_a_cascade(self) -> None:
        # c's only state allows a's 1 alone, which allows b's 1 alone.
        only = np.full((6, 6), INF)
        only[1, 1] = 0.0
        pin = np.array([INF, 0.0, INF, INF, INF, INF])
        reduced = reduce(
            clique(6, (Factor(("c", ), pin), Factor(("c", "a"), only))))
        self.assertEqual(reduced.graph.variables, ())
        full = reduced.expand({})
        self.assertEqual((full["a"], full["c"]), (1, 1))

    def test_a_state_that_is_never_better_goes(self) -> None:
        plain = clique(6)
        self.assertEqual(sizes(reduce(plain)), dict.fromkeys("abcde", 6))
        dear = np.array([0.0, 0.0, 1e6, 0.0, 0.0, 0.0])
        reduced = reduce(clique(6, (Factor(("c", ), dear), )))
        self.assertEqual(sizes(reduced)["c"], 5)
        self.assertEqual(reduced.labels["c"].tolist(), [0, 1, 3, 4, 5])

    def test_of_duplicates_the_lowest_state_stays(self) -> None:
        graph = clique(6)
        twice = tuple(
            Factor(f.scope, np.concatenate([f.table, f.table[1:3]], axis=0)
                   ) if f.scope[0] == "e" else f for f in graph.factors)
        variables = (*graph.variables[:4], Variable("e", 8))
        reduced = reduce(FactorGraph(variables, twice))
        self.assertEqual(reduced.labels["e"].tolist(), [0, 1, 2, 3, 4, 5])

    def test_a_variable_without_a_legal_state(self) -> None:
        graph = FactorGraph(
            (Variable("a", 2), Variable("b", 2)),
            (Factor(("a", ), np.array([INF, 0.0])),
             Factor(("a", "b"), np.array([[0.0, 0.0], [INF, INF]]))))
        with self.assertRaisesRegex(InfeasiblePlan, "no state of 'a'"):
            reduce(graph)


if __name__ == "__main__":
    unittest.main()
