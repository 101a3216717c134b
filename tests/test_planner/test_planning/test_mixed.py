"""Devices of several kinds: stages on their own, all else in step."""

from __future__ import annotations

import dataclasses
import functools
import unittest

import torch
from torch import nn

from planner import recipes
from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.choices import factorisations
from planner.cluster.spec import ClusterSpec, NodeGroup
from planner.constraints import Constraints, forbid
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.infeasible import tightest_rank, why_not
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.joint.search import joint_candidates
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.shares import shared_ranks, with_shares
from tests.test_planner.test_pipeline.models import Row
from tests.test_planner.test_planning.programs import slow_cluster, zoo

_STAGES, _SMALL = MeshSpec(("pp", ), (2, )), 10**8


def _on_two_nodes(second_flops_per_s: float, size: int = 2) -> ClusterSpec:
    """Two nodes, the second of another kind with less memory."""
    base = slow_cluster(size, 1e9)
    other = dataclasses.replace(base.device,
                                name="other",
                                memory_bytes=_SMALL,
                                peak_flops_per_s=(("float32",
                                                   second_flops_per_s), ))
    outer = dataclasses.replace(base.tiers[0], name="fabric", size=2)
    return dataclasses.replace(base,
                               tiers=(base.tiers[0], outer),
                               others=(NodeGroup(num_nodes=1, device=other), ))


@functools.cache
def _row() -> Program:
    """Eight equal layers and a loss."""
    return capture(Row(8), (torch.zeros(256, 8), torch.zeros(256, 8)),
                   loss_fn=nn.functional.mse_loss)


def _staged(planning: Planning, **options: object) -> Candidate:
    return planning.from_recipe(recipes.pipeline(**options), _STAGES)


def _longest_s(candidate: Candidate) -> float:
    """Of the stages, a micro-batch through."""
    assert candidate.step is not None
    return max(s.forward_s + s.input_s + s.weight_s
               for s in candidate.step.stages)


class TestInStep(unittest.TestCase):

    def _time_s(self, cluster: ClusterSpec, ranks: int = 4) -> float:
        planning = Planning(zoo("llama"), cluster)
        mesh = MeshSpec(("dp", ), (ranks, ))
        return planning.from_recipe(RECIPES["ddp"](), mesh).price.time_s

    def test_the_slowest_kind_sets_the_pace(self) -> None:
        even, slower, faster = (self._time_s(_on_two_nodes(f))
                                for f in (1e9, 0.5e9, 2e9))
        self.assertGreater(slower, even)
        self.assertEqual(faster, even)

    def test_the_smallest_memory_is_the_limit(self) -> None:
        planning = Planning(zoo("llama"), _on_two_nodes(1e9))
        self.assertEqual(planning.memory_limit_bytes, _SMALL)
        chosen = planning.from_recipe(RECIPES["ddp"](),
                                      MeshSpec(("dp", ), (4, )))
        self.assertEqual(planning.limits.of(chosen), _SMALL)

    def test_a_small_mesh_has_the_first_devices_only(self) -> None:
        mixed, alike = _on_two_nodes(1e8), slow_cluster(2, 1e9)
        self.assertEqual(self._time_s(mixed, 2), self._time_s(alike, 2))
        planning = Planning(zoo("llama"), mixed)
        chosen = planning.from_recipe(RECIPES["ddp"](),
                                      MeshSpec(("dp", ), (2, )))
        self.assertEqual(planning.limits.of(chosen), 10**9)
        self.assertLessEqual(chosen.bound_s, chosen.summed_s)

    def test_shares_follow_the_speed(self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9, size=1))
        even = planning.from_recipe(RECIPES["ddp"](), MeshSpec(("dp", ),
                                                               (2, )))
        shared = with_shares(planning, even)
        assert shared is not None
        (first, second), = shared.layout.shares.values()
        self.assertGreater(second, first)
        self.assertLess(shared.time_s, even.time_s)
        every = [self._shared_s(planning, even, n) for n in range(1, 256)]
        self.assertAlmostEqual(shared.run_s, min(every), delta=1e-12)
        self.assertLessEqual(shared.bound_s, shared.summed_s)

    def _shared_s(self, planning: Planning, even: Candidate,
                  rows: int) -> float:
        layout = dataclasses.replace(even.layout,
                                     shares={"dp": (rows, 256 - rows)})
        return max(s.price.step_s for s in shared_ranks(planning, layout))

    def test_shares_keep_each_memory(self) -> None:
        base = _on_two_nodes(1e9, size=1)
        even = Planning(_row(), base).from_recipe(RECIPES["ddp"](),
                                                  MeshSpec(("dp", ), (2, )))
        limit = even.memory.total - 100
        small = dataclasses.replace(base.others[0].device, memory_bytes=limit)
        planning = Planning(
            _row(),
            dataclasses.replace(base,
                                others=(NodeGroup(num_nodes=1,
                                                  device=small), )))
        self.assertFalse(planning.fits(even))
        shared = with_shares(planning, even)
        assert shared is not None
        self.assertTrue(planning.fits(shared))
        self.assertLessEqual(shared.shared[1].memory.total, limit)
        rows = round(256 * shared.shared[1].part) + 1
        layout = dataclasses.replace(shared.layout,
                                     shares={"dp": (256 - rows, rows)})
        more = shared_ranks(planning, layout)[1].memory.total
        self.assertGreater(more, limit)

    def test_the_search_chooses_shares_and_tells(self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9, size=1))
        chosen, found = planning.best([MeshSpec(("dp", ), (2, ))])
        self.assertTrue(chosen.shared)
        plan = planning.plan_of(chosen)
        self.assertEqual(plan.shares, chosen.layout.shares)
        self.assertEqual(planning.of_plan(plan).time_s, chosen.time_s)
        text = format_report(build_report(planning, chosen, found))
        self.assertRegex(
            text, r"shares of the batch over dp: \d+ : \d+\n"
            r" +slow: [\d.]+% of it, forward and backward .*\n"
            r" +other: [\d.]+% of it, forward and backward .*\n")

    def test_the_report_says_that_shares_are_equal(self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9, size=1))
        chosen = planning.from_recipe(RECIPES["ddp"](),
                                      MeshSpec(("dp", ), (2, )))
        text = format_report(build_report(planning, chosen, [chosen]))
        self.assertIn(
            """\
devices: 1 x slow (953.7 MiB), then 1 x other (95.37 MiB)
  every layer is on devices of several kinds, which do the same in step: the slowest
  sets the pace, the smallest the memory; shares of the batch are equal on all
""", text)


class TestStages(unittest.TestCase):

    def test_cuts_are_those_of_the_best_of_all(self) -> None:
        for flops, layers in ((1e9, 4), (3e9, 2), (1e9 / 3, 6)):
            planning = Planning(_row(), _on_two_nodes(flops, size=1))
            chosen = _staged(planning)
            assert chosen.pipeline is not None
            self.assertEqual(chosen.pipeline.cuts, (f"layers.{layers}", ))
            every = [
                _staged(planning, cuts=[f"layers.{n}"]) for n in range(1, 8)
            ]
            self.assertEqual(_longest_s(chosen), min(map(_longest_s, every)))

    def test_each_stage_is_priced_on_its_own_devices(self) -> None:
        cuts = ["layers.4"]
        slow, mixed, quick = (_staged(Planning(_row(), c), cuts=cuts).step
                              for c in (slow_cluster(2, 1e9),
                                        _on_two_nodes(3e9, size=1),
                                        _on_two_nodes(1e10, size=1)))
        assert slow is not None and mixed is not None and quick is not None
        self.assertEqual(mixed.stages[0], slow.stages[0])
        self.assertLess(mixed.stages[1].forward_s, slow.stages[1].forward_s)
        self.assertLess(quick.stages[1].forward_s, mixed.stages[1].forward_s)

    def test_back_and_forth_the_middle_is_on_the_second_kind(self) -> None:
        planning = Planning(_row(), _on_two_nodes(1e10, size=1))
        chosen = _staged(planning, schedule="zbv", chunks=2)
        assert chosen.step is not None
        first, second, third, last = chosen.step.stages
        middle = second.memory.parameters + third.memory.parameters
        self.assertGreater(middle,
                           first.memory.parameters + last.memory.parameters)

    def test_a_stage_over_both_kinds_is_as_good_as_the_weaker(self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9))
        recipe = recipes.pipeline(cuts=["layers.4"]) * RECIPES["ddp"]()
        apart, across = (planning.from_recipe(recipe, MeshSpec(names, (2, 2)))
                         for names in (("pp", "dp"), ("dp", "pp")))
        assert apart.step is not None and across.step is not None
        self.assertLess(apart.step.stages[1].forward_s,
                        across.step.stages[1].forward_s)
        report = build_report(planning, across, [across])
        self.assertEqual([s["device"] for s in report["pipeline"]["stages"]],
                         ["slow | other"] * 2)
        self.assertIn("stages 0, 1 are on devices of several kinds",
                      format_report(report))

    def test_each_rank_keeps_to_the_memory_of_its_own_device(self) -> None:
        cluster = _on_two_nodes(1e9, size=1)
        sizes = [m.total for m in self._memory(Planning(_row(), cluster))]
        self.assertGreater(sizes[0], 2 * sizes[1])
        roomy = Planning(_row(), _with_memory(cluster, 2 * sizes[0], sizes[1]))
        chosen = _staged(roomy, cuts=["layers.6"])
        self.assertTrue(roomy.fits(chosen))
        tight = Planning(_row(),
                         _with_memory(cluster, 2 * sizes[0], sizes[1] - 1))
        chosen = _staged(tight, cuts=["layers.6"])
        self.assertEqual(tight.excess_bytes(chosen), 1)
        self.assertEqual(chosen.memory.total, sizes[1])
        self.assertEqual(tightest_rank(chosen), "pp rank 1 (stage 1)")
        self.assertIn("per device: the smallest", why_not(tight, chosen))
        given = Planning(_row(), cluster, memory_limit_bytes=sizes[1])
        chosen = _staged(given, cuts=["layers.6"])
        self.assertEqual(given.excess_bytes(chosen), sizes[0] - sizes[1])

    def _memory(self, planning: Planning) -> tuple[object, ...]:
        step = _staged(planning, cuts=["layers.6"]).step
        assert step is not None
        return step.memory

    def test_kinds_are_told_by_stage(self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9, size=1))
        chosen = _staged(planning)
        report = build_report(planning, chosen, [chosen])
        self.assertEqual([s["device"] for s in report["pipeline"]["stages"]],
                         ["slow", "other"])
        lines = format_report(report).splitlines()
        stage = next(n for n, line in enumerate(lines) if "layers.2" in line)
        self.assertTrue(lines[stage - 1].endswith("  slow"))
        self.assertTrue(lines[stage].endswith("  other"))

    def test_a_schedule_of_ones_own_is_priced_where_its_stages_are(
            self) -> None:
        planning = Planning(_row(), _on_two_nodes(3e9, size=1))
        chosen = _staged(planning, schedule="auto", chunks=2)
        again = planning.of_plan(planning.plan_of(chosen))
        self.assertAlmostEqual(again.time_s, chosen.time_s, places=12)


class TestSearch(unittest.TestCase):

    def test_a_kind_for_each_stage(self) -> None:
        """Beside all plans in step, on as many devices; shares of the
        batch that follow the speed have no idle time on top."""
        planning = Planning(_row(), _on_two_nodes(4e9, size=1))
        best, found = planning.best(factorisations(2))
        staged = next(c for c in found if c.step is not None)
        assert staged.step is not None
        in_step = [c for c in found if c.pipeline is None and not c.shared]
        self.assertTrue(in_step)
        self.assertLess(staged.time_s, 0.7 * min(c.time_s for c in in_step))
        slow, quick = (m.parameters for m in staged.step.memory)
        self.assertLess(2 * slow, quick)
        self.assertTrue(best.shared)
        self.assertLess(best.time_s, staged.time_s)
        self.assertLessEqual(best.bound_s, best.summed_s)

    def test_a_plan_that_fits_a_quick_device_with_little_memory(self) -> None:
        cluster = _on_two_nodes(4e9, size=1)
        equal = self._quickest(_with_memory(cluster, 10**9, 10**9))
        assert equal.step is not None
        taken = equal.step.memory[1].total
        tight = self._quickest(_with_memory(cluster, 10**9, taken * 2 // 3))
        assert tight.step is not None
        self.assertLessEqual(tight.step.memory[1].total, taken * 2 // 3)
        self.assertGreater(tight.time_s, equal.time_s)

    def _quickest(self, cluster: ClusterSpec) -> Candidate:
        """Of pipelines that keep all activations."""
        constraints = Constraints(forbid("recompute"))
        planning = Planning(_row(), cluster, constraints=constraints)
        found = joint_candidates(planning, 2, _STAGES).candidates
        return min(filter(planning.fits, found), key=planning.rank)


def _with_memory(cluster: ClusterSpec, first: int, second: int) -> ClusterSpec:
    other, = cluster.others
    return dataclasses.replace(cluster,
                               device=dataclasses.replace(cluster.device,
                                                          memory_bytes=first),
                               others=(dataclasses.replace(
                                   other,
                                   device=dataclasses.replace(
                                       other.device, memory_bytes=second)), ))


if __name__ == "__main__":
    unittest.main()
