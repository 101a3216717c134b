"""The search's objective against the independent price and other solvers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from unittest import TestCase, mock

import networkx as nx

from benchmarks.plan_time import CASES, built
from planner.capture.capture import capture
from planner.choices import free_policies, recipe_policies
from planner.cluster import Coefficient, axis_link
from planner.cost.conversion import ConversionCost
from planner.cost.plan_price import PlanPrice
from planner.cost.price import price
from planner.explain.arguments import parse_mesh
from planner.ir.mesh import MeshSpec
from planner.overlapping import overlapping_candidates
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.search import bound
from planner.search.draft import Draft
from planner.search.eliminate import eliminate
from planner.search.factors import Factor
from planner.search.layouts import replicated_layout
from planner.search.milp import solve_milp
from planner.search.overlap import overlapped
from planner.search.policy import Policy
from planner.search.problem import AxisProblem, draft_of
from planner.search.readback import read_back
from tests.test_planner.test_planning.programs import (mlp, planning_on,
                                                       slow_cluster, zoo)

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


class TestOverlapped(TestCase):

    def _planning(self, name: str, bandwidth: float) -> Planning:
        cluster = slow_cluster(4, bandwidth)
        device = dataclasses.replace(cluster.device,
                                     coefficients=(Coefficient(
                                         name="interference",
                                         value=0.2,
                                         source="made up"), ))
        program = mlp() if name == "mlp" else zoo(name)
        return Planning(program, dataclasses.replace(cluster, device=device))

    def test_no_plan_is_below_the_bound(self) -> None:
        meshes = [MeshSpec(n, (2, 2)) for n in (("dp", "tp"), ("x", "y"))]
        cases = itertools.product(("gpt2", "t5"), meshes, (1e8, 1e10))
        for name, mesh, bandwidth in cases:
            with self.subTest(name, mesh=str(mesh), bandwidth=bandwidth):
                planning = self._planning(name, bandwidth)
                known = overlapped(planning.facts, mesh, planning.cluster)
                assert known is not None
                free = planning.candidate(mesh, free_policies(mesh))
                found = [free, *overlapping_candidates(planning, known, ())]
                for candidate in found:
                    self.assertLessEqual(known.bound_s, candidate.run_s)

    def test_what_runs_again_is_in_the_bound(self) -> None:
        planning = self._planning("llama", 1e9)
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        again = planning.repeated_classes()
        once, twice = (overlapped(planning.facts, mesh, planning.cluster, n)
                       for n in ([], again))
        assert once is not None and twice is not None
        self.assertGreater(twice.bound_s, once.bound_s)
        for policies in recipe_policies(mesh, planning.constraints):
            run_s = planning.candidate(mesh, policies, recompute=again).run_s
            self.assertLessEqual(twice.bound_s, run_s)

    def test_every_assignment_beside_data_parallelism(self) -> None:
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        for bandwidth in (1e7, 1e8, 1e9):
            planning = self._planning("mlp", bandwidth)
            data = planning.candidate(mesh,
                                      [RECIPES["ddp"]().parts[0][1],
                                       Policy()])
            known = overlapped(planning.facts, mesh, planning.cluster)
            assert known is not None
            problem = dataclasses.replace(_problem(planning, mesh),
                                          layout=data.layout,
                                          axis=1)
            steps_s = [p.step_s for p in _all_prices(planning, problem)]
            self.assertLessEqual(known.bound_s, min(steps_s))

    def test_axes_that_are_given_have_a_close_bound(self) -> None:
        """A plan of 70B has to run blocks again to fit."""
        for name, again in (("8B", False), ("70B", True)):
            case = CASES[f"Llama {name} on 32x8"]
            loaded = built(case)
            planning = planning_on(capture(loaded.model, loaded.inputs), 256)
            found = planning.candidates(parse_mesh(case.mesh))
            self.assertTrue(planning.fits(found[0]))
            self.assertEqual(bool(found[0].layout.recompute), again)
            self.assertTrue(found[0].overlaps)
            self.assertLess(found[0].gap, 0.005)
            self.assertIn("divide the batch over dp",
                          planning.searched.bound_of)
            for candidate in filter(planning.fits, found):
                self.assertLessEqual(planning.searched.bound_s,
                                     candidate.run_s)


def _all_prices_s(planning: Planning, problem: AxisProblem) -> Iterator[float]:
    return (p.time_s for p in _all_prices(planning, problem))


def _all_prices(planning: Planning,
                problem: AxisProblem) -> Iterator[PlanPrice]:
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
                        planning.cluster.device)


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
