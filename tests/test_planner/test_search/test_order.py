"""Elimination orders and their dry runs."""

from __future__ import annotations

import itertools
import unittest

import networkx as nx
import numpy as np
from hypothesis import given, settings

from planner.search.factors import Factor, FactorGraph, Variable
from planner.search.order import best_order, fill_order, table_order
from tests.test_planner.test_search.graphs import chain, grid, random_graphs


def _by_definition(graph: FactorGraph) -> tuple[str, ...]:
    """Least fill next, each found anew: what links would be made."""
    sizes, links = graph.sizes, nx.Graph()
    links.add_nodes_from(sizes)
    for factor in graph.factors:
        links.add_edges_from(itertools.combinations(factor.scope, 2))
    names = []
    while links:

        def missing(name: str) -> list[tuple[str, str]]:
            return [
                pair for pair in itertools.combinations(links[name], 2)
                if not links.has_edge(*pair)
            ]

        chosen = min(links,
                     key=lambda n:
                     (sum(sizes[a] * sizes[b] for a, b in missing(n)), n))
        links.add_edges_from(missing(chosen))
        links.remove_node(chosen)
        names.append(chosen)
    return tuple(names)


class TestOrder(unittest.TestCase):

    def test_dry_run_of_a_chain(self) -> None:
        order = table_order(chain(10, 5, 2))
        self.assertEqual(order.width, 2)
        self.assertEqual(order.largest_entries, 5**3)
        self.assertEqual(order.total_entries, 8 * 5**3 + 5**2 + 5)
        self.assertEqual(order.kept_entries, 8 * 5**2 + 5 + 1)

    def test_ties_are_broken_by_name(self) -> None:
        names = ["c", "a", "d", "b"]
        graph = FactorGraph(tuple(Variable(n, 2) for n in names), ())
        self.assertEqual(table_order(graph).names, ("a", "b", "c", "d"))
        self.assertEqual(fill_order(graph).names, ("a", "b", "c", "d"))

    def test_small_tables_first(self) -> None:
        # "hub" links everything and would make one table over all.
        leaves = [f"leaf{i}" for i in range(6)]
        graph = FactorGraph(
            tuple(Variable(n, 3) for n in ("hub", *leaves)),
            tuple(Factor(("hub", n), np.zeros((3, 3))) for n in leaves))
        self.assertEqual(best_order(graph).width, 1)

    def test_the_better_one_is_taken(self) -> None:
        graph = grid(7, 3)
        totals = [o(graph).total_entries for o in (table_order, fill_order)]
        self.assertEqual(best_order(graph).total_entries, min(totals))

    @given(random_graphs())
    @settings(deadline=None, derandomize=True)
    def test_least_fill_next(self, graph: FactorGraph) -> None:
        self.assertEqual(fill_order(graph).names, _by_definition(graph))

    @given(random_graphs())
    @settings(deadline=None, derandomize=True)
    def test_every_variable_once(self, graph: FactorGraph) -> None:
        names = sorted(v.name for v in graph.variables)
        for make in (table_order, fill_order, best_order):
            self.assertEqual(sorted(make(graph).names), names)
            self.assertEqual(make(graph), make(graph))


if __name__ == "__main__":
    unittest.main()
