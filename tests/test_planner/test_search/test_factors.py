"""Factor graphs refuse what makes no sense, and solutions are honest."""

from __future__ import annotations

import dataclasses
import unittest

import numpy as np

from planner.search.factors import Factor, FactorGraph, Solution, Variable


def solution(value: float, bound: float) -> Solution:
    return Solution(value=value,
                    bound=bound,
                    seconds=0.5,
                    assignment={"a": 1},
                    method="milp")


class TestFactorGraph(unittest.TestCase):

    def test_value_sums_all_factors(self) -> None:
        graph = FactorGraph(
            (Variable("a", 2), Variable("b", 3)),
            (Factor((), np.array(10.0)), Factor(("b", ), np.arange(3.0)),
             Factor(("b", "a"),
                    np.arange(6.0).reshape(3, 2))))
        self.assertEqual(graph.value({"a": 1, "b": 2}), 10 + 2 + 5)

    def test_tables_are_read_only_and_the_callers_is_not(self) -> None:
        table = np.zeros(2)
        factor = Factor(("a", ), table)
        with self.assertRaises(ValueError):
            factor.table[0] = 1.0
        table[0] = 1.0

    def test_over_other_variables_the_table_is_the_same(self) -> None:
        factor = Factor(("a", "b"), np.arange(6.0).reshape(2, 3))
        other = factor.over(("c", "a"))
        self.assertEqual(other.scope, ("c", "a"))
        self.assertIs(other.table, factor.table)
        for scope in (("c", ), ("c", "c"), ("a", "b", "c")):
            with self.subTest(scope), self.assertRaises(ValueError):
                factor.over(scope)

    def test_what_makes_no_sense(self) -> None:
        a, b = Variable("a", 2), Variable("b", 3)
        cases = [
            ("'a' has 0 states", lambda: Variable("a", 0)),
            ("one axis a variable", lambda: Factor(("a", ), np.zeros((2, 2)))),
            ("names a variable twice", lambda: Factor(("a", "a"), np.eye(2))),
            ("NaN or -inf", lambda: Factor(("a", ), np.array([0, np.nan]))),
            ("NaN or -inf", lambda: Factor(("a", ), np.array([0, -np.inf]))),
            ("'a' is given twice", lambda: FactorGraph((a, b, a), ())),
            ("'b', which is no variable", lambda: FactorGraph((a, ), (Factor(
                ("b", ), np.zeros(3)), ))),
            (r"shape \(3,\); its variables have \(2,\)", lambda: FactorGraph(
                (a, ), (Factor(("a", ), np.zeros(3)), ))),
            ("'a' the state None", lambda: FactorGraph((a, ), ()).value({})),
            ("'a' the state 2; it has states 0 to 1", lambda: FactorGraph(
                (a, ), ()).value({"a": 2})),
        ]
        for message, make in cases:
            with self.subTest(message):
                self.assertRaisesRegex(ValueError, message, make)


class TestSolution(unittest.TestCase):

    def test_optimal_only_where_the_gap_is_closed(self) -> None:
        closed, open_ = solution(10.0, 10.0 - 1e-9), solution(10.0, 9.0)
        self.assertTrue(closed.is_optimal)
        self.assertIn("optimal", str(closed))
        self.assertFalse(open_.is_optimal)
        self.assertEqual(open_.gap, 0.1)
        self.assertNotIn("optimal", str(open_))
        self.assertIn("gap 10.00%", str(open_))

    def test_the_gap_of_nothing(self) -> None:
        self.assertEqual(solution(0.0, 0.0).gap, 0.0)
        self.assertEqual(solution(-2.0, -3.0).gap, 0.5)
        self.assertEqual(solution(np.inf, 1.0).gap, np.inf)

    def test_it_is_frozen(self) -> None:
        with self.assertRaises(dataclasses.FrozenInstanceError):
            solution(1.0, 1.0).value = 0.0  # type: ignore[misc]
        with self.assertRaises(TypeError):
            solution(1.0, 1.0).assignment["a"] = 0  # type: ignore[index]


if __name__ == "__main__":
    unittest.main()
