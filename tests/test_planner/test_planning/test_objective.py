"""The search's objective against the independent price and other solvers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from unittest import TestCase, mock

import networkx as nx

from planner.cluster import Coefficient, axis_link
from planner.cost.conversion import ConversionCost
from planner.cost.price import price
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.search import bound
from planner.search.draft import Draft
from planner.search.eliminate import eliminate
from planner.search.factors import Factor
from planner.search.layouts import replicated_layout
from planner.search.milp import solve_milp
from planner.search.policy import Policy
from planner.search.problem import AxisProblem, draft_of
from planner.search.readback import read_back
from tests.test_planner.test_planning.programs import mlp, slow_cluster, zoo

_MODELS = ("gpt2", "llama", "gemma2", "mixtral", "bert", "t5", "vit", "phi3")
_LINE = MeshSpec(("x", ), (4, ))
_GRID = MeshSpec(("x", "y"), (2, 2))
_CASES = ((_LINE, 1e8), (_LINE, 1e10), (_GRID, 1e9))


def _problem(planning: Planning, mesh: MeshSpec) -> AxisProblem:
    return AxisProblem(facts=planning.facts,
                       layout=replicated_layout(planning.facts, mesh),
                       axis=0,
                       policy=Policy(),
                       tables=planning.tables(mesh),
                       device=planning.cluster.device)


class TestObjective(TestCase):

    def test_equals_price(self) -> None:
        for name, (mesh, bandwidth) in itertools.product(_MODELS, _CASES):
            with self.subTest(name, mesh=str(mesh), bandwidth=bandwidth):
                planning = Planning(zoo(name), slow_cluster(4, bandwidth))
                found = planning.candidate(mesh, [Policy()] * len(mesh.sizes))
                ratio = found.solution.value_s / found.price.time_s
                self.assertAlmostEqual(ratio, 1.0, delta=1e-9)
                self.assertLessEqual(found.bound_s,
                                     found.price.time_s * (1 + 1e-9))

    def test_equals_price_where_tiles_are_left_over(self) -> None:
        cluster = slow_cluster(4, 1e9)
        waves = (Coefficient(name="wave_elements",
                             value=2000.0,
                             source="made up"), )
        cluster = dataclasses.replace(cluster,
                                      device=dataclasses.replace(
                                          cluster.device, coefficients=waves))
        for mesh in (_LINE, _GRID):
            found = Planning(zoo("gpt2"),
                             cluster).candidate(mesh,
                                                [Policy()] * len(mesh.sizes))
            self.assertAlmostEqual(found.solution.value_s / found.price.time_s,
                                   1.0,
                                   delta=1e-9)
            self.assertLessEqual(found.bound_s,
                                 found.price.time_s * (1 + 1e-9))

    def test_quick_bounds_are_bounds(self) -> None:
        planning = Planning(zoo("llama"), slow_cluster(4, 1e9))
        facts, cluster = planning.facts, planning.cluster
        for mesh in (_LINE, _GRID):
            exact_s = bound.lower_bound_s(facts, mesh, cluster)
            self.assertEqual(bound.quick_bound_s(facts, mesh, cluster),
                             exact_s)
            with mock.patch.object(bound, "_MANY_CALLS", 0):
                quick_s = bound.quick_bound_s(facts, mesh, cluster)
            self.assertGreater(quick_s, 0.0)
            self.assertLessEqual(quick_s, exact_s * (1 + 1e-9))

    def test_one_axis_is_optimal(self) -> None:
        for name in ("gpt2", "llama"):
            planning = Planning(zoo(name), slow_cluster(4, 1e9))
            found = planning.candidate(_LINE, [Policy()])
            self.assertLess(found.gap, 1e-9)
            whole = price(planning.program,
                          replicated_layout(planning.facts, _LINE),
                          planning.tables(_LINE).cost, planning.cluster.device)
            self.assertLess(found.price.time_s, 0.6 * whole.time_s)

    def test_elimination_equals_milp(self) -> None:
        for name in ("gpt2", "vit"):
            planning = Planning(zoo(name), slow_cluster(4, 1e9))
            graph = draft_of(_problem(planning, _LINE)).graph()
            exact, programmed = eliminate(graph), solve_milp(graph)
            self.assertAlmostEqual(exact.value / programmed.value,
                                   1.0,
                                   delta=1e-6)

    def test_price_is_a_function_of_the_layouts_alone(self) -> None:
        planning = Planning(zoo("llama"), slow_cluster(4, 1e9))
        found = planning.candidate(_GRID, [Policy(), Policy()])
        cost = ConversionCost(
            [axis_link(planning.cluster, (2, 2), a) for a in (0, 1)],
            planning.cluster.device)
        again = price(planning.program, found.layout, cost,
                      planning.cluster.device)
        self.assertEqual(again, found.price)


class TestBruteForce(TestCase):

    def test_every_assignment(self) -> None:
        planning = Planning(mlp(), slow_cluster(2, 1e8))
        mesh = MeshSpec(("x", ), (2, ))
        problem = _problem(planning, mesh)
        best_s = min(_all_prices_s(planning, problem))
        found = planning.candidate(mesh, [Policy()])
        self.assertAlmostEqual(found.price.time_s / best_s, 1.0, delta=1e-12)


def _all_prices_s(planning: Planning, problem: AxisProblem) -> Iterator[float]:
    """The independent price for every choice of the calls' options.

    With those given, what is left falls into small groups of variables
    that share no factor, each tried out on its own.
    """
    draft = draft_of(problem)
    groups = _groups(draft)
    for states in itertools.product(*(range(draft.sizes[n])
                                      for n in draft.calls)):
        chosen = dict(zip(draft.calls, states, strict=True))
        if all(_extend(chosen, *group, draft.sizes) for group in groups):
            layout = read_back(problem, draft, chosen)
            yield price(planning.program, layout, problem.tables.cost,
                        planning.cluster.device).time_s


def _groups(draft: Draft) -> list[tuple[list[str], list[Factor]]]:
    """Variables that are no calls, with the factors on them."""
    links: nx.Graph = nx.Graph()
    links.add_nodes_from(n for n in draft.sizes if n not in draft.calls)
    for factor in draft.factors:
        nx.add_path(links, [n for n in factor.scope if n not in draft.calls])
    groups = [sorted(g) for g in nx.connected_components(links)]
    inner = [f for f in draft.factors if set(f.scope) <= set(draft.calls)]
    return [([], inner)
            ] + [(g, [f for f in draft.factors if set(f.scope) & set(g)])
                 for g in groups]


def _extend(chosen: dict[str, int], names: list[str], factors: list[Factor],
            sizes: dict[str, int]) -> bool:
    """Add the best states of a group; whether there are legal ones."""
    best_s, best = math.inf, None
    for states in itertools.product(*(range(sizes[n]) for n in names)):
        tried = {**chosen, **dict(zip(names, states, strict=True))}
        value_s = sum(f.table[tuple(tried[n] for n in f.scope)]
                      for f in factors)
        if value_s < best_s:
            best_s, best = value_s, states
    if best is not None:
        chosen.update(zip(names, best, strict=True))
    return best is not None
