"""Where stages begin."""

from __future__ import annotations

import itertools
import unittest

import numpy as np

from planner.cluster import load_cluster
from planner.ir.errors import LayoutError
from planner.ir.pipeline import PipelineSpec
from planner.pipeline.build import pipelined
from planner.pipeline.cuts import balanced, finer_pieces
from planner.pipeline.mixed_cuts import balanced_on
from planner.pipeline.refine import refined
from planner.planning import Planning
from tests.test_planner.test_pipeline.models import (captured, laid_out, plain,
                                                     row, skips)


class TestBalanced(unittest.TestCase):

    def test_is_the_best_of_all(self) -> None:
        times = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
        for parts in range(1, 6):
            best = min(
                max(
                    sum(times[a:b])
                    for a, b in itertools.pairwise((0, *ends, len(times))))
                for ends in itertools.combinations(range(1, 7), parts - 1))
            cuts = balanced(times, parts)
            found = max(
                sum(times[a:b])
                for a, b in itertools.pairwise((0, *cuts, len(times))))
            self.assertEqual(found, best)

    def test_on_devices_of_several_kinds(self) -> None:
        generator = np.random.default_rng(0)
        for parts in range(1, 6):
            times = generator.integers(1, 10, (parts, 7)).astype(float)
            options = [
                (0, *ends, 7)
                for ends in itertools.combinations(range(1, 7), parts - 1)
            ]
            cuts = (0, *balanced_on(times), 7)
            longest = [
                max(row[a:b].sum()
                    for row, (a, b) in zip(times, itertools.pairwise(ends)))
                for ends in (*options, cuts)
            ]
            self.assertIn(cuts, options)
            self.assertEqual(longest[-1], min(longest))


class TestEqualCuts(unittest.TestCase):

    def test_stages_begin_with_blocks_where_there_are_enough(self) -> None:
        found = laid_out(captured(row()), PipelineSpec(microbatches=2), pp=2)
        self.assertEqual(found.pipeline.cuts, ("layers.2", ))

    def test_one_block_is_cut_inside_where_little_is_live(self) -> None:
        found = laid_out(captured(plain()), PipelineSpec(microbatches=2), pp=2)
        self.assertEqual(found.pipeline.cuts, ("glue.0:c.linear", ))

    def test_as_many_stages_as_wanted(self) -> None:
        for stages in (2, 3, 4):
            found = laid_out(captured(plain()),
                             PipelineSpec(microbatches=2),
                             pp=stages)
            parts = pipelined(found.program, found.layout, found.pipeline)
            self.assertEqual(len(parts.stages), stages)

    def test_pieces_share_their_block(self) -> None:
        facts = Planning(captured(plain()), load_cluster("cpu-gloo")).facts
        times = {n: [1.0] * len(c.calls) for n, c in facts.classes.items()}
        pieces = finer_pieces(facts, [times], 8)
        self.assertGreater(len(pieces), len(facts.program.blocks))
        for _, group in itertools.groupby(pieces, lambda p: p.block):
            own = list(group)
            self.assertAlmostEqual(sum(p.share for p in own), 1.0)
            for way in (0, 1):
                self.assertAlmostEqual(sum(p.kernels[way] for p in own), 1.0)

    def test_too_few_calls(self) -> None:
        with self.assertRaisesRegex(LayoutError, "too few for 64 stages"):
            laid_out(captured(plain()),
                     PipelineSpec(microbatches=2, chunks=16),
                     pp=4)


class TestRefined(unittest.TestCase):

    def test_what_crosses_is_a_value_between_blocks(self) -> None:
        found = laid_out(captured(skips()), PipelineSpec(microbatches=2), pp=2)
        cuts = ("glue.0:down2.conv2d", "glue.0:up2.conv_transpose2d")
        program, layout = refined(found.program, found.layout, cuts)
        names = [b.name for b in program.blocks]
        self.assertEqual([n for n in names if n.startswith("glue.0")],
                         ["glue.0", *cuts])
        made = set(program.specs)
        for block in program.blocks:
            self.assertLessEqual(set(block.operands), made)
            self.assertIn(block.block_class, layout.classes)
            made |= set(block.results)

    def test_nothing_happens_without_cuts_inside(self) -> None:
        found = laid_out(captured(row()), PipelineSpec(microbatches=2), pp=2)
        program, layout = refined(found.program, found.layout, ("layers.1", ))
        self.assertIs(program, found.program)
        self.assertIs(layout, found.layout)

    def test_wrong_cuts_are_named(self) -> None:
        found = laid_out(captured(plain()), PipelineSpec(microbatches=2), pp=2)
        for cut, text in {
                "glue.9:c.linear": "no block is named 'glue.9'",
                "glue.0:c.liner": "did you mean c.linear",
                "glue.0:a.linear": "write the cut as 'glue.0'",
        }.items():
            with self.assertRaisesRegex(LayoutError, text):
                refined(found.program, found.layout, (cut, ))


if __name__ == "__main__":
    unittest.main()
