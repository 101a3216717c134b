"""The joint search: cuts, scores, and what it finds."""

from __future__ import annotations

import dataclasses
import functools
import math
import unittest
from unittest import mock

import numpy as np
import torch
import transformers as hf

from planner import recipes
from planner.capture.capture import capture
from planner.choices import factorisations
from planner.cluster import load_cluster
from planner.constraints import Constraints, allow, forbid, limit
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.joint.links import Links
from planner.joint.search import (JointFound, JointSearch, joint_candidates,
                                  space_of)
from planner.joint.space import AXES, Cell, Point, Space
from planner.joint.tables import block_table
from planner.pipeline.means import count_ahead
from planner.planning import Planning
from tests.model_zoo import MODELS
from tests.test_planner.test_pipeline.models import captured, normed

BATCH, LAYERS = 4, 4


@functools.cache
def llama() -> Program:
    config = hf.LlamaConfig(hidden_size=512,
                            intermediate_size=1408,
                            num_hidden_layers=LAYERS,
                            num_attention_heads=8,
                            num_key_value_heads=8,
                            vocab_size=4096)
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config).to(torch.bfloat16)
        tokens = torch.zeros(BATCH, 512, dtype=torch.long)
    return capture(model, {"input_ids": tokens, "labels": tokens})


class TestSpace(unittest.TestCase):

    def test_every_point_uses_all_ranks_and_the_whole_batch(self) -> None:
        space = Space(ranks=8, batch=16, blocks=10, positions=4, experts=2)
        found = [p for c in space.cells() for p in space.points(c)]
        self.assertEqual(len(found), space.count())
        self.assertEqual(len(found), len(set(found)))
        for point in found:
            self.assertEqual(math.prod(point.sizes.values()), 8)
            self.assertEqual(point.cell.rows * point.microbatches * point.dp,
                             16)
            self.assertLessEqual(point.pp * point.chunks, 10)
            self.assertLessEqual(point.cell.cp, 4)
            self.assertEqual(point.cell.rows % point.cell.ep, 0)
        meshes = {p.mesh for p in found}
        self.assertIn(MeshSpec(AXES, (1, 8, 1, 1, 1)), meshes)
        self.assertIn(MeshSpec(AXES, (2, 1, 2, 2, 1)), meshes)

    def test_fewer_micro_batches_than_stages_on_shared_processors(
            self) -> None:
        own, shared = (Space(ranks=8, batch=16, blocks=10, is_shared=s)
                       for s in (False, True))
        few = [
            p for c in shared.cells() for p in shared.points(c)
            if p.microbatches < p.pp
        ]
        self.assertEqual(shared.count() - own.count(), len(few))
        self.assertEqual({(p.pp, p.microbatches)
                          for p in few}, {(4, 2), (8, 2), (8, 4)})
        self.assertEqual({p.chunks for p in few}, {1})

    def test_given_and_limited_sizes(self) -> None:
        given = Space(ranks=8,
                      batch=16,
                      blocks=10,
                      fixed={
                          "pp": 2,
                          "dp": 2,
                          "ep": 1,
                          "cp": 1,
                          "tp": 2
                      })
        self.assertEqual(
            {(p.pp, p.dp, p.cell.tp)
             for c in given.cells()
             for p in given.points(c)}, {(2, 2, 2)})
        limited = Space(ranks=8, batch=16, blocks=10, largest={"tp": 2})
        self.assertEqual({c.tp for c in limited.cells()}, {1, 2})

    def test_orders_whose_links_are_alike_are_one(self) -> None:
        """Axes of 2 in nodes of 8: stages or data may span the nodes; of
        steps of 8 both do, whichever is outside."""
        space = Space(ranks=32,
                      batch=64,
                      blocks=10,
                      links=Links(load_cluster("h100-sxm").resized(32)).of)
        apart = {
            n: [
                p.order[0] for p in space.in_orders(
                    Point(cell=Cell(tp=n, rows=1),
                          pp=2,
                          dp=16 // n,
                          microbatches=4))
            ]
            for n in (2, 8)
        }
        self.assertEqual(apart, {2: ["pp", "dp"], 8: ["pp"]})
        alike = dataclasses.replace(space, links=None)
        self.assertLess(space.count(), alike.count())

    def test_of_a_program(self) -> None:
        planning = Planning(llama(), load_cluster("h100-sxm").resized(16))
        space = space_of(planning, 16)
        self.assertEqual((space.batch, space.positions, space.experts),
                         (BATCH, 512, 1))
        self.assertEqual(len(space.orders), 2)
        without = Planning(llama(),
                           planning.cluster,
                           constraints=Constraints(forbid("recompute"),
                                                   forbid("fsdp")))
        found = space_of(without, 16)
        self.assertFalse(found.recompute)
        self.assertEqual(found.shardings, ("ddp", "zero1"))


class TestTables(unittest.TestCase):

    def test_a_row_is_less_than_two_and_half_is_less_than_a_whole(
            self) -> None:
        cluster = load_cluster("h100-sxm").resized(4)
        planning = Planning(count_ahead(llama()), cluster)
        one, two = (block_table(planning, Cell(rows=n)) for n in (1, 2))
        self.assertEqual(len(one.forward_s), LAYERS + 2)
        self.assertLess(one.forward_s.sum(), two.forward_s.sum())
        self.assertEqual(one.parameter_bytes.sum(), two.parameter_bytes.sum())
        half = block_table(planning, Cell(tp=2, rows=2))
        self.assertLessEqual(half.work_s.sum(), two.work_s.sum())
        layers = one.forward_s[1:-1]
        np.testing.assert_allclose(layers, layers[0])

    def test_starts_from_what_its_axes_have_alone(self) -> None:
        planning = Planning(count_ahead(llama()), load_cluster("h100-sxm:1x8"))
        both = Cell(cp=2, tp=2, rows=2)
        cold = block_table(planning, both)
        axes = {"cp": Cell(cp=2, rows=2), "tp": Cell(tp=2, rows=2)}
        alone = {n: block_table(planning, c).layout for n, c in axes.items()}
        warm = block_table(planning, both, alone=alone)
        self.assertLessEqual(warm.work_s.sum(), 1.01 * cold.work_s.sum())
        self.assertLessEqual(warm.saved_bytes.sum(),
                             1.01 * cold.saved_bytes.sum())

    def test_starts_from_layouts_for_other_rows(self) -> None:
        planning = Planning(count_ahead(llama()), load_cluster("h100-sxm:1x8"))
        few, more = (Cell(cp=2, tp=2, rows=n) for n in (2, 4))
        cold = block_table(planning, few)
        like = block_table(planning, more).layout
        warm = block_table(planning, few, like=like)
        self.assertLessEqual(warm.work_s.sum(), 1.01 * cold.work_s.sum())
        self.assertEqual(warm.own_bytes.sum(), cold.own_bytes.sum())


class TestOrders(unittest.TestCase):

    def test_data_parallelism_outside_of_stages_spans_nodes(self) -> None:
        """It is priced by the links it crosses in the whole mesh."""
        program, cluster = llama(), load_cluster("h100-sxm:4x2")
        planning = Planning(program, cluster)
        outside, inside = (planning.from_recipe(
            recipes.pipeline(microbatches=2) * recipes.ddp(),
            MeshSpec(names, sizes))
                           for names, sizes in ((("dp", "pp"), (2, 2)),
                                                (("pp", "dp"), (2, 2))))
        assert outside.step is not None and inside.step is not None
        self.assertGreater(outside.step.stages[0].once_s,
                           2 * inside.step.stages[0].once_s)


class TestBatchStatistics(unittest.TestCase):

    def _found(self, *items: object) -> tuple[Planning, JointFound]:
        planning = Planning(captured(normed()),
                            load_cluster("h100-sxm").resized(2),
                            constraints=Constraints(*items))
        mesh = MeshSpec(("pp", ), (2, ))
        return planning, joint_candidates(planning, 2, mesh)

    def test_batch_norm_has_stages_only_where_that_is_allowed(self) -> None:
        _, refused = self._found()
        self.assertEqual(refused.candidates, ())
        self.assertIn("batch_statistics", refused.reason)
        planning, found = self._found(allow("batch_statistics"))
        self.assertEqual(found.reason, "")
        best = found.candidates[0]
        assert best.pipeline is not None
        self.assertEqual(best.pipeline.batch_statistics, "microbatch")
        again = planning.of_plan(planning.plan_of(best))
        self.assertAlmostEqual(again.time_s, best.time_s, places=12)
        self.assertIn("each micro-batch stands for the batch",
                      format_report(build_report(planning, best, [best])))

    def test_what_can_be_exact_is(self) -> None:
        planning = Planning(llama(),
                            load_cluster("h100-sxm").resized(2),
                            constraints=Constraints(allow("batch_statistics")))
        found = joint_candidates(planning, 2, MeshSpec(("pp", ), (2, )))
        for candidate in found.candidates:
            assert candidate.pipeline is not None
            self.assertTrue(candidate.pipeline.is_exact)

    def test_nothing_else_can_be_allowed(self) -> None:
        with self.assertRaisesRegex(
                ValueError, r"allow\('batch'\) names nothing that can be "
                "allowed; known names: batch_statistics"):
            allow("batch")


class TestSearch(unittest.TestCase):

    def test_fits_where_one_stage_does_not(self) -> None:
        program = llama()
        cluster = load_cluster("h100-sxm").resized(4)
        free = Planning(program, cluster)
        found = joint_candidates(free, 4).candidates
        self.assertEqual(list(found), sorted(found, key=free.rank))
        least = min(c.memory.total for c in found
                    if c.pipeline is None and not c.layout.recompute) * 3 // 5
        tight = Planning(program, cluster, memory_limit_bytes=least)
        best = joint_candidates(tight, 4).candidates[0]
        self.assertLessEqual(best.memory.total, least)
        plan = tight.plan_of(best)
        again = tight.of_plan(plan)
        self.assertAlmostEqual(again.time_s, best.time_s, places=12)
        self.assertEqual(again.memory, best.memory)

    def test_nothing_in_step_is_quicker_than_it_promises(self) -> None:
        """What is hidden is no more than is thought."""
        planning = Planning(llama(),
                            load_cluster("h100-sxm").resized(4),
                            constraints=Constraints(forbid("recompute"),
                                                    limit(cp=1)))
        search = JointSearch(planning, 4, staged=False)
        seen = 0
        for cell in search.space.cells():
            scores = search.scores(cell)
            assert scores is not None
            for point in search.space.points(cell):
                priced = search.price(point, scores)
                assert priced is not None
                seen += 1
                self.assertLessEqual(
                    scores.score(point).time_s, priced.run_s * (1 + 1e-9))
        self.assertEqual(seen, 7)

    def test_the_certificate_is_of_what_overlaps(self) -> None:
        planning = Planning(llama(), load_cluster("h100-sxm").resized(4))
        best, found = planning.best(factorisations(4))
        self.assertTrue(best.overlaps)
        self.assertLess(best.gap, 0.005 + 1e-9)
        least_s = min(c.run_s for c in found if planning.fits(c))
        self.assertLessEqual(planning.searched.bound_s, least_s)

    def test_the_whole_batch_where_samples_mix(self) -> None:
        model, inputs, loss_fn = MODELS["clip"]()
        planning = Planning(capture(model, inputs, loss_fn=loss_fn),
                            load_cluster("h100-sxm").resized(2))
        found = joint_candidates(planning, 2)
        self.assertTrue(found.candidates)
        for candidate in found.candidates:
            self.assertIsNone(candidate.pipeline)
            self.assertNotIn("dp", candidate.mesh.names)
        self.assertIn("run this model without a pipeline", found.reason)

    def test_rows_that_one_rank_cannot_cut_are_not_laid_out_again(
            self) -> None:
        model, inputs, loss_fn = MODELS["clip"]()
        planning = Planning(capture(model, inputs, loss_fn=loss_fn),
                            load_cluster("h100-sxm").resized(4))
        search = JointSearch(planning, 4)
        rows = planning.facts.batch_rows // 2
        with mock.patch("planner.joint.search.block_table",
                        side_effect=block_table) as laid_out:
            self.assertIsNone(search.scores(Cell(rows=rows)))
            for cell in (Cell(tp=2, rows=rows), Cell(cp=2, rows=rows)):
                self.assertIsNone(search.scores(cell))
        self.assertEqual(laid_out.call_count, 1)
        self.assertIsNotNone(
            search.scores(Cell(tp=2, rows=planning.facts.batch_rows)))

    def test_the_report_says_why_the_batch_stays_whole(self) -> None:
        model, inputs, loss_fn = MODELS["clip"]()
        planning = Planning(capture(model, inputs, loss_fn=loss_fn),
                            load_cluster("h100-sxm").resized(2))
        best, found = planning.best(factorisations(2))
        report = build_report(planning, best, found)
        self.assertIn("run this model without a pipeline",
                      report["solution"]["uncut"])
        self.assertIn("neither stages nor several micro-batches",
                      format_report(report))


if __name__ == "__main__":
    unittest.main()
