"""Which plan is chosen, under memory limits and constraints."""

from __future__ import annotations

import dataclasses
import time
from unittest import TestCase, mock

import planner.meshes as meshes_module
from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid, limit, pin
from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import R, S
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning, factorisations
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import (large_llama,
                                                       planning_on,
                                                       slow_cluster, zoo)

_LINE = MeshSpec(("dp", ), (4, ))
_NO_ZERO1 = forbid("zero1")
"""Whose peak here are packed gradients, which recomputing does not lower."""
_GRID = MeshSpec(("dp", "tp"), (2, 2))


def _planning(*constraints: object, **options: object) -> Planning:
    return Planning(zoo("llama"),
                    slow_cluster(4, 1e9),
                    constraints=Constraints(constraints),
                    **options)  # type: ignore[arg-type]


class TestBest(TestCase):

    def test_no_recipe_is_better(self) -> None:
        best, found = _planning().best([_GRID])
        self.assertEqual(best.price.time_s, min(c.price.time_s for c in found))
        self.assertTrue(best.is_free)
        self.assertEqual(len(found), 10)

    def test_is_deterministic(self) -> None:
        texts = {
            p.plan_of(p.best([_GRID])[0]).to_yaml()
            for p in (_planning(), _planning())
        }
        self.assertEqual(len(texts), 1)

    def test_flat_mesh(self) -> None:
        best, found = _planning().best(factorisations(4))
        self.assertEqual(best.mesh.world_size, 4)
        self.assertEqual(best, found[0])

    def test_pruned_meshes_could_not_win(self) -> None:
        planning = _planning()
        meshes = factorisations(4)
        best, found = planning.best(meshes)
        for mesh in set(meshes) - {c.mesh for c in found}:
            self.assertGreater(planning.bound_s(mesh), best.price.time_s)

    def test_recipes_on_the_quickest_mesh_even_where_it_does_not_fit(
            self) -> None:
        planning = Planning(zoo("llama"),
                            slow_cluster(16, 1e9),
                            memory_limit_bytes=1)
        meshes = factorisations(16)
        priced = mock.Mock(wraps=meshes_module._without_stages)
        with mock.patch.object(meshes_module, "_without_stages", priced):
            found = planning.candidates(meshes)
        free = [
            c for c in found
            if c.is_free and not c.is_lighter and c.pipeline is None
        ]
        quickest = min(free, key=lambda c: c.run_s).mesh
        looked_at = {call.args[1] for call in priced.call_args_list}
        self.assertIn(quickest, looked_at)
        self.assertLess(len(looked_at), len(meshes))

    def test_out_of_time(self) -> None:
        whole, short = _planning(), _planning(time_limit_s=0.0)
        for meshes in (factorisations(4), [_GRID]):
            best, _ = whole.best(meshes)
            quick, _ = short.best(meshes)
            self.assertEqual(len(short.candidates(meshes)), 1)
            least_s = min(c.summed_s for c in (best, quick))
            self.assertLessEqual(short.searched.bound_s, least_s)

    def test_what_is_asked_beside_a_search_has_little_time(self) -> None:
        limited = _planning(time_limit_s=100.0)
        beside = limited.copied(cluster=limited.cluster.resized(8))
        self.assertLessEqual(beside.until_s - time.monotonic(), 10.0)
        self.assertEqual(_planning().copied().until_s, float("inf"))

    def test_time_does_not_depend_on_depth(self) -> None:
        planning = planning_on(large_llama(), 8)
        facts = planning.facts
        calls = sum(len(c.calls) for c in facts.classes.values())
        self.assertLess(calls, 120)
        self.assertEqual(max(facts.counts.values()), 3)


class TestBound(TestCase):

    def test_three_axes(self) -> None:
        planning = Planning(zoo("llama"), slow_cluster(8, 1e9))
        mesh = MeshSpec(("dp", "cp", "tp"), (2, 2, 2))
        best, found = planning.best([mesh])
        self.assertEqual(len(found), 22)
        self.assertGreater(best.bound_s, 0.8 * best.price.time_s)
        for candidate in found:
            self.assertLessEqual(candidate.bound_s, candidate.price.time_s)

    def test_more_devices_bound_less(self) -> None:
        bounds = [
            Planning(zoo("llama"), slow_cluster(n, 1e9)).bound_s(
                MeshSpec(("dp", "tp"), (n // 2, 2))) for n in (4, 8)
        ]
        self.assertGreater(bounds[0], bounds[1])


class TestKnownWisdom(TestCase):
    """What people found out reappears without being told."""

    def test_tensor_parallelism_inside_a_node(self) -> None:
        planning = planning_on(large_llama(), 64)
        recipe = RECIPES["ddp"]() * RECIPES["megatron"]()
        inside, across = (planning.from_recipe(recipe,
                                               MeshSpec(("dp", "tp"), sizes))
                          for sizes in ((8, 8), (2, 32)))
        self.assertLess(inside.price.time_s, across.price.time_s)

    def test_sequence_parallelism_beats_plain(self) -> None:
        planning = planning_on(large_llama(), 8)
        mesh = MeshSpec(("tp", ), (8, ))
        plain, sequence = (planning.from_recipe(
            RECIPES["megatron"](sequence_parallel=s), mesh)
                           for s in (False, True))
        self.assertLess(sequence.price.time_s, plain.price.time_s)
        self.assertLess(sequence.memory.total, plain.memory.total)

    def test_shards_what_does_not_fit(self) -> None:
        program = large_llama()
        mesh = MeshSpec(("dp", ), (8, ))
        roomy = planning_on(program, 8)
        ddp = roomy.from_recipe(RECIPES["ddp"](), mesh)
        limit_bytes = (ddp.memory.parameters + ddp.memory.gradients +
                       ddp.memory.optimizer)
        tight = Planning(program,
                         roomy.cluster,
                         memory_limit_bytes=limit_bytes)
        best, _ = tight.best([mesh])
        self.assertLessEqual(best.memory.total, limit_bytes)
        sharded = [
            n for n in program.params if best.layout.at_rest[n] != (R, )
        ]
        self.assertGreater(len(sharded), 0)


class TestMemory(TestCase):

    def test_lighter_plans_are_slower(self) -> None:
        whole = _planning().best([_GRID])[0]
        half = _planning(memory_limit_bytes=int(0.9 * whole.memory.total))
        best, _ = half.best([_GRID])
        self.assertTrue(half.fits(best))
        self.assertGreaterEqual(best.price.time_s, whole.price.time_s)

    def test_nothing_fits(self) -> None:
        with self.assertRaisesRegex(
                InfeasiblePlan, "no plan of LlamaForCausalLM fits 1000 B "
                "per device: the smallest, .* takes .*; use more devices, a "
                "smaller batch, or a higher memory_limit_bytes"):
            _planning(memory_limit_bytes=1000).best([_GRID])

    def test_whole_outputs_count(self) -> None:
        found = _planning().best([_GRID])[0]
        logits = 4 * 16 * 96 * 4
        self.assertEqual(found.memory.outputs, logits + 4)


def _too_small_to_keep() -> int:
    """A limit that no plan fits which keeps all activations."""
    kept = _planning(forbid("recompute"), _NO_ZERO1, memory_limit_bytes=1)
    return min(c.memory.total for c in kept.candidates([_LINE])) - 1


class TestRecompute(TestCase):

    def test_is_chosen_where_nothing_else_fits(self) -> None:
        planning = _planning(_NO_ZERO1,
                             memory_limit_bytes=_too_small_to_keep())
        best, found = planning.best([_LINE])
        self.assertEqual(best.layout.recompute, {"LlamaDecoderLayer"})
        self.assertTrue(best.name.endswith(", recomputing LlamaDecoderLayer"))
        self.assertGreater(best.price.recompute_s, 0)
        fitting = [c for c in found if planning.fits(c)]
        self.assertTrue(all(c.layout.recompute for c in fitting))
        self.assertEqual(best.price.time_s,
                         min(c.price.time_s for c in fitting))

    def test_plan_tells(self) -> None:
        planning = _planning(_NO_ZERO1,
                             memory_limit_bytes=_too_small_to_keep())
        best, _ = planning.best([_LINE])
        plan = Plan.from_yaml(planning.plan_of(best).to_yaml())
        self.assertEqual(plan.recompute, ("LlamaDecoderLayer", ))
        again = planning.of_plan(plan)
        self.assertEqual(again.price, best.price)
        self.assertEqual(again.memory, best.memory)
        self.assertAlmostEqual(plan.prediction["recompute_s"],
                               best.price.recompute_s)

    def test_is_not_used_where_something_fits(self) -> None:
        planning = _planning(_NO_ZERO1,
                             memory_limit_bytes=_too_small_to_keep() + 1)
        best, found = planning.best([_LINE])
        self.assertTrue(planning.fits(best))
        self.assertFalse(any(c.layout.recompute for c in found))

    def test_searches_lighter_plans_too(self) -> None:
        roomy = _planning(_NO_ZERO1, memory_limit_bytes=_too_small_to_keep())
        least = min(c.memory.total for c in roomy.candidates([_LINE]))
        tight = _planning(_NO_ZERO1, memory_limit_bytes=least)
        best, found = tight.best([_LINE])
        self.assertEqual(best.memory.total, least)
        self.assertTrue(any(c.is_lighter and c.layout.recompute
                            for c in found))

    def test_forbidden(self) -> None:
        planning = _planning(forbid("recompute"),
                             _NO_ZERO1,
                             memory_limit_bytes=_too_small_to_keep())
        with self.assertRaisesRegex(InfeasiblePlan,
                                    r"or drop forbid\('recompute'\)"):
            planning.best([_LINE])

    def test_largest_kind_is_named(self) -> None:
        with self.assertRaisesRegex(
                InfeasiblePlan, "recomputing LlamaDecoderLayer, takes .*, "
                r"above all for (.*) \(\1 .*\); use"):
            _planning(_NO_ZERO1, memory_limit_bytes=1000).best([_LINE])


class TestConstraints(TestCase):

    def test_pin(self) -> None:
        planning = _planning(pin("*.q_proj.weight", dp=S(1)))
        for candidate in planning.candidates([_LINE]):
            for name in planning.program.params:
                if name.endswith("q_proj.weight"):
                    self.assertEqual(candidate.layout.at_rest[name], (S(1), ))

    def test_forbid_placement(self) -> None:
        planning = _planning(forbid("*", dp=S(0)))
        for candidate in planning.candidates([_LINE]):
            for name in planning.program.params:
                self.assertNotEqual(candidate.layout.at_rest[name], (S(0), ))

    def test_forbid_recipe(self) -> None:
        names = {
            c.policies[0].name
            for c in _planning(forbid("fsdp")).candidates([_LINE])
        }
        self.assertEqual(names, {"ddp", "zero1", "auto-dp"})

    def test_limit(self) -> None:
        found = _planning(limit(tp=2)).candidates(factorisations(4))
        self.assertLessEqual(
            max(c.mesh.size("tp") for c in found if "tp" in c.mesh.names), 2)

    def test_clash_is_named(self) -> None:
        planning = _planning(pin("*.q_proj.weight", dp=S(0)),
                             forbid("*q_proj*", dp=S(0)))
        with self.assertRaisesRegex(
                InfeasiblePlan, r"pin\('\*.q_proj.weight', dp=S\(0\)\) and "
                r"forbid\('\*q_proj\*', dp=S\(0\)\) leave .*q_proj.weight of "
                r"shape \(32, 32\) no layout over dp=4; it can lie as "
                r"R, S\(0\), S\(1\)"):
            planning.best([_LINE])

    def test_uneven_pin_is_named(self) -> None:
        mesh = MeshSpec(("dp", ), (3, ))
        planning = Planning(zoo("llama"),
                            slow_cluster(3, 1e9),
                            constraints=Constraints(
                                pin("*.q_proj.weight", dp=S(0))))
        with self.assertRaisesRegex(InfeasiblePlan,
                                    r"over dp=3; it can lie as R: ask"):
            planning.best([mesh])

    def test_unknown_names(self) -> None:
        for constraint, text in ((pin("*.q_prj.weight",
                                      dp=S(0)), "matches no parameter"),
                                 (forbid("fspd"),
                                  "names no recipe; did you mean fsdp?")):
            with self.assertRaisesRegex(ValueError, text):
                _planning(constraint)
        with self.assertRaisesRegex(ValueError, "names axis 'pp'"):
            _planning(limit(pp=2)).best([_GRID])

    def test_everything_excluded(self) -> None:
        with self.assertRaisesRegex(InfeasiblePlan,
                                    r"exclude every plan: limit\(tp=1\)"):
            _planning(limit(tp=1)).best([_GRID])

    def test_limits_of_two_axes_leave_the_others(self) -> None:
        planning = Planning(zoo("llama"),
                            slow_cluster(4, 1e9),
                            constraints=Constraints(limit(dp=1, tp=1)))
        best, _ = planning.best(factorisations(4))
        self.assertEqual(best.mesh.world_size, 4)
        for axis in {"dp", "tp"} & set(best.mesh.names):
            self.assertEqual(best.mesh.size(axis), 1)

    def test_a_pin_on_one_layer_is_on_those_alike(self) -> None:
        best, _ = _planning(pin("*.layers.2.mlp.up_proj.weight",
                                dp=S(1))).best([_GRID])
        for number in range(3):
            name = f"param:model.layers.{number}.mlp.up_proj.weight"
            self.assertEqual(best.layout.at_rest[name][0], S(1))

    def test_layers_that_are_alike_can_not_differ(self) -> None:
        planning = _planning(pin("*.layers.1.mlp.up_proj.weight", dp=S(1)),
                             pin("*.layers.2.*", dp=R))
        with self.assertRaisesRegex(
                InfeasiblePlan,
                r"dp=S\(1\)\) and pin\('\*.layers.2.\*', dp=R\) "
                "leave model.layers.0.mlp.up_proj.weight and 2 more no layout "
                "over dp=2: they are of blocks that are alike"):
            planning.best([_GRID])

    def test_pins_that_clash_in_stages_are_all_named(self) -> None:
        planning = _planning(pin("*.layers.0.mlp.up_proj.weight", dp=S(1)),
                             pin("*.layers.1.mlp.up_proj.weight", dp=R),
                             forbid("*.layers.2.mlp.up_proj.weight", dp=S(0)))
        with self.assertRaisesRegex(
                InfeasiblePlan,
                r"dp=S\(1\)\) and pin\('\*.layers.1.mlp.up_proj.weight', dp=R\)"
                r" and forbid\('\*.layers.2.mlp.up_proj.weight', dp=S\(0\)\) "
                "leave model.layers.0.mlp.up_proj.weight and 2 more no layout "
                "over dp=2: they are of blocks that are alike"):
            planning.best([MeshSpec(("pp", "dp"), (2, 2))])

    def test_pins_that_some_recipes_have_no_layout_for(self) -> None:
        """Rows over both axes can't be gathered over the outer one alone."""
        best, found = _planning(pin("*_proj.weight", dp=S(0))).best([_GRID])
        self.assertGreater(len(found), 1)
        self.assertEqual(
            best.layout.at_rest["param:model.layers.0.mlp.up_proj.weight"][0],
            S(0))

    def test_what_says_nothing(self) -> None:
        for make, text in ((lambda: pin("*"), "names no axis"),
                           (lambda: limit(), "names no axis"),
                           (lambda: limit(tp=0), "whole number from 1 on"),
                           (lambda: limit(tp=2.5), "whole number from 1 on")):
            with self.assertRaisesRegex(ValueError, text):
                make()
        stages = MeshSpec(("pp", "dp"), (2, 2))
        with self.assertRaisesRegex(ValueError, "over which stages lie"):
            _planning(pin("*_proj.weight", pp=S(0))).best([stages])


class TestFixedRest(TestCase):

    def test_is_kept(self) -> None:
        planning = _planning()
        first = planning.candidate(_GRID, planning.best([_GRID])[0].policies)
        fixed = {
            n: (S(0), R)
            for n in planning.program.params
            if planning.program.specs[n].shape[0] % 2 == 0
        }
        again = planning.candidate(_GRID, first.policies, fixed_rest=fixed)
        for name, layout in fixed.items():
            self.assertEqual(again.layout.at_rest[name], layout)


class TestFactorisations(TestCase):

    def test_two_axes(self) -> None:
        self.assertEqual([str(m) for m in factorisations(4)],
                         ["tp=4", "dp=2 x tp=2", "dp=4"])

    def test_one_device(self) -> None:
        self.assertEqual([str(m) for m in factorisations(1)], ["dp=1"])

    def test_three_axes(self) -> None:
        self.assertIn("dp=2 x cp=2 x tp=2",
                      [str(m) for m in factorisations(8, max_axes=3)])


class TestCluster(TestCase):

    def test_mesh_must_fit(self) -> None:
        planning = Planning(zoo("llama"), load_cluster("h100-sxm").resized(4))
        with self.assertRaisesRegex(ValueError, "needs 16 devices"):
            planning.best([MeshSpec(("dp", ), (16, ))])

    def test_limit_comes_from_the_device(self) -> None:
        cluster = slow_cluster(4, 1e9)
        device = dataclasses.replace(cluster.device, memory_bytes=12345)
        planning = Planning(zoo("llama"),
                            dataclasses.replace(cluster, device=device))
        self.assertEqual(planning.memory_limit_bytes, 12345)
