"""Programs in micro-batches and stages."""

from __future__ import annotations

import unittest

from planner.ir.errors import LayoutError
from planner.ir.pipeline import PipelineSpec
from planner.ir.values import calls_of
from planner.pipeline.build import Pipelined, pipelined
from planner.pipeline.cuts import cuts_by_parameters
from planner.pipeline.means import count_ahead
from tests.test_planner.test_pipeline.models import (Example, captured,
                                                     laid_out, row, skips,
                                                     tagger)


def parts(example: Example, cuts: tuple[str, ...] = (),
          **axes: int) -> Pipelined:
    found = laid_out(captured(example), PipelineSpec(microbatches=2,
                                                     cuts=cuts), **axes)
    return pipelined(found.program, found.layout, found.pipeline)


class TestMeans(unittest.TestCase):

    def test_mean_is_a_sum_over_a_count(self) -> None:
        program = count_ahead(captured(tagger()))
        cls = program.class_of(program.blocks[-1])
        labels = [n.meta["label"] for n in calls_of(cls.graph)]
        loss = next(n for n in labels if n.endswith(".count"))
        stem = loss.removesuffix(".count")
        self.assertLess(labels.index(loss), labels.index(f"{stem}.share"))
        self.assertEqual(labels[-1], f"{stem}.sum")


class TestEarlyValues(unittest.TestCase):

    def test_the_count_of_tokens_is_known_before(self) -> None:
        prelude = parts(tagger(), pp=2).prelude
        assert prelude.program is not None
        self.assertEqual(prelude.program.params, ())
        self.assertTrue(
            any(
                n.endswith(".count") for n in prelude.program.outputs
                if n is not None))
        for value in prelude.values.values():
            self.assertTrue(value.placement.is_replicated)

    def test_nothing_is_where_no_value_is_of_the_batch(self) -> None:
        self.assertIsNone(parts(row(), pp=2).prelude.program)


class TestStages(unittest.TestCase):

    def test_masks_are_computed_again_and_not_sent(self) -> None:
        found = parts(tagger(), ("layers.1", "layers.2"), pp=3)
        for stage in found.stages[1:]:
            self.assertEqual(len(stage.takes), 1)
            self.assertTrue(
                all(stage.program.specs[n].requires_grad for n in stage.takes))

    def test_skips_go_straight_to_those_that_read_them(self) -> None:
        cuts = ("glue.0:down2.conv2d", "glue.0:middle.2.conv2d",
                "glue.0:up1.conv2d")
        found = parts(skips(), cuts, pp=4)
        self.assertIn((0, 2), found.edges)
        self.assertIn((2, 3), found.edges)
        made: set[str] = set()
        for stage in found.stages:
            self.assertLessEqual(set(stage.takes), made)
            made |= set(stage.gives)

    def test_every_parameter_has_its_stage(self) -> None:
        found = parts(row(), pp=4)
        names = [n for s in found.stages for n in s.params]
        self.assertEqual(sorted(names), sorted(found.program.params))

    def test_stages_follow_their_parameters(self) -> None:
        found = parts(skips(), ("glue.0:up2.conv_transpose2d", ), pp=2)
        program = captured(skips())
        stages = [s.params for s in found.stages]
        self.assertEqual(cuts_by_parameters(program, stages),
                         ("glue.0:up2.conv_transpose2d", ))
        with self.assertRaisesRegex(LayoutError, "after those of stage"):
            cuts_by_parameters(program, stages[::-1])


class TestRefused(unittest.TestCase):

    def test_batch_that_does_not_divide(self) -> None:
        with self.assertRaisesRegex(LayoutError, "into 3 micro-batches"):
            laid_out(captured(row()), PipelineSpec(microbatches=3), pp=2)

    def test_cuts_out_of_order(self) -> None:
        with self.assertRaisesRegex(LayoutError, "not in the order"):
            parts(row(), ("layers.3", "layers.1"), pp=3)


if __name__ == "__main__":
    unittest.main()
