"""The error of a search in which nothing fits says what would."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from torch.nn import functional as F

from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid
from planner.infeasible import fitting_changes, tightest_rank, why_not
from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec
from planner.pipeline.candidate import pipeline_candidate
from planner.planning import Planning
from planner.recipes import ddp, fsdp, pipeline, policies_for
from planner.variation import like, repriced
from tests.test_planner.test_pipeline.models import captured, plain
from tests.test_planner.test_planning.programs import zoo

_LINE = MeshSpec(("dp", ), (2, ))


def _planning(*constraints: object, limit: int | None = None) -> Planning:
    return Planning(zoo("llama"),
                    load_cluster("h100-sxm").resized(4),
                    constraints=Constraints(constraints),
                    memory_limit_bytes=limit)


class TestStages(TestCase):
    """A mesh with a pipeline's axis, of a model that is one block."""

    def of_one_block(self, loss_fn: Any) -> Planning:
        model, batch, _ = plain()
        return Planning(captured((model, batch, loss_fn)),
                        load_cluster("cpu-gloo").resized(2))

    def test_cut_inside(self) -> None:
        planning = self.of_one_block(F.mse_loss)
        best, _ = planning.best([MeshSpec(("pp", ), (2, ))])
        assert best.pipeline is not None
        self.assertIn(":", best.pipeline.cuts[0])

    def test_without_any(self) -> None:
        planning = self.of_one_block(lambda o, y: F.mse_loss(o, y).sqrt())
        with self.assertRaisesRegex(InfeasiblePlan,
                                    "no pipeline runs on pp=2: sqrt at "):
            planning.best([MeshSpec(("pp", ), (2, ))])

    def test_of_a_batch_that_does_not_divide(self) -> None:
        planning = _planning()
        for sizes, parts in (((2, 3), "2 micro-batches for each of 3 ranks"),
                             ((8, 1), "8 micro-batches, one for each stage")):
            mesh = MeshSpec(("pp", "dp"), sizes)
            cluster = load_cluster("h100-sxm").resized(mesh.world_size)
            with self.assertRaisesRegex(
                    InfeasiblePlan,
                    f"batch of 4 rows can't be cut into {parts}"):
                planning.copied(cluster=cluster).best([mesh])


class TestChanges(TestCase):

    def test_nothing_where_it_fits(self) -> None:
        planning = _planning()
        chosen = planning.candidates([_LINE])[0]
        self.assertEqual(fitting_changes(planning, chosen), [])

    def test_each_makes_it_fit(self) -> None:
        roomy = _planning(forbid("recompute"))
        # Of two layers, gradients that wait to be sent are the most where
        # they are not sharded: then recomputation does not help.
        chosen = roomy.from_recipe(fsdp(), _LINE)
        tight = roomy.copied(memory_limit_bytes=chosen.memory.total - 1)
        found = fitting_changes(tight, chosen)
        self.assertTrue(any(t.startswith("4 devices (dp=4)") for t in found))
        self.assertTrue(
            any(t.startswith("recomputing LlamaDecoderLayer") for t in found))
        self.assertTrue(
            any(t.startswith("a batch 1/2 as large") for t in found))
        self.assertTrue(
            any(t.startswith("without forbid('recompute')") for t in found))
        self.assertRegex(
            why_not(tight, chosen),
            r"on every rank, above all for .*\. What fits: 4 devices")

    def test_more_stages_that_recompute(self) -> None:
        planning = _planning()
        again = planning.repeated_classes()
        inner = MeshSpec(("dp", ), (1, ))
        spec = PipelineSpec(schedule="gpipe", microbatches=2, axis="pp")
        chosen = pipeline_candidate(planning,
                                    spec,
                                    policies_for(ddp(), inner),
                                    MeshSpec(("pp", ), (2, )),
                                    recompute=again)
        tight = planning.copied(memory_limit_bytes=chosen.memory.total - 1)
        found = next(t for t in fitting_changes(tight, chosen)
                     if "devices" in t)
        self.assertRegex(found, r"^4 devices \(pp=4\) take ")
        larger = like(planning, chosen, MeshSpec(("pp", ), (4, )))
        self.assertEqual(larger.layout.recompute, frozenset(again))

    def test_pipeline_names_its_rank(self) -> None:
        planning = _planning()
        mesh = MeshSpec(("pp", "dp"), (2, 2))
        chosen = planning.from_recipe(
            pipeline("gpipe", microbatches=2) * ddp(), mesh)
        assert chosen.step is not None
        worst = max(range(2), key=lambda r: chosen.step.memory[r].total)
        self.assertEqual(tightest_rank(chosen),
                         f"pp rank {worst} (stage {worst})")

    def test_smaller_batches_are_those_that_layouts_divide(self) -> None:
        """Of four rows a micro-batch of a rank has two, or the last one."""
        planning = _planning()
        self.assertEqual(planning.facts.batch_rows, 4)
        for dp, expected in ((1, True), (2, False)):
            chosen = planning.from_recipe(
                pipeline("gpipe", microbatches=2) * ddp(),
                MeshSpec(("pp", "dp"), (2, dp)))
            tight = planning.copied(memory_limit_bytes=chosen.memory.total - 1)
            found = fitting_changes(tight, chosen)
            self.assertEqual(
                any(t.startswith("a batch 1/2 as large") for t in found),
                expected)


class TestVariation(TestCase):

    def test_same_cluster_same_price(self) -> None:
        planning = _planning()
        mesh = MeshSpec(("pp", "dp"), (2, 2))
        both = [
            planning.candidates([_LINE])[0],
            planning.from_recipe(
                pipeline("1f1b", microbatches=2) * ddp(), mesh)
        ]
        again = repriced(planning.copied(), both)
        self.assertEqual([c.time_s for c in again], [c.time_s for c in both])
        self.assertEqual([c.name for c in again], [c.name for c in both])

    def test_like(self) -> None:
        planning = _planning()
        chosen = planning.candidates([_LINE])[0]
        self.assertEqual(like(planning, chosen, _LINE).time_s, chosen.time_s)
