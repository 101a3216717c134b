"""Every block as a stage of its own, found once for many layouts."""

from __future__ import annotations

import unittest

import numpy as np

from planner.cluster import load_cluster
from planner.joint.apart import BlocksApart
from planner.joint.space import Cell
from planner.joint.tables import block_table
from planner.pipeline.early_values import early_values
from planner.pipeline.means import count_ahead
from planner.pipeline.stages import split_stages
from planner.planning import Planning
from tests.test_planner.test_joint.test_joint import BATCH, llama

CELLS = (Cell(rows=BATCH), Cell(rows=1), Cell(tp=2, rows=1), Cell(cp=2,
                                                                  rows=1),
         Cell(tp=4, rows=2), Cell(tp=2, rows=BATCH))


class TestBlocksApart(unittest.TestCase):

    def setUp(self) -> None:
        self.planning = Planning(count_ahead(llama()),
                                 load_cluster("h100-sxm:1x8"))
        self.blocks = BlocksApart(self.planning.program,
                                  self.planning.facts.known_calls)

    def test_each_is_the_stage_that_the_program_is_cut_into(self) -> None:
        for cell in CELLS:
            layout = block_table(self.planning, cell).layout
            assert layout is not None
            main, laid, _ = early_values(self.planning.program, layout)
            stages = split_stages(main, laid, {
                b.name: i
                for i, b in enumerate(main.blocks)
            })
            apart = self.blocks.of(layout, exact=True)
            self.assertEqual(apart.main.blocks, main.blocks)
            self.assertEqual(apart.main.specs, main.specs)
            kinds = apart.kind.tolist()
            for kind, own in enumerate(apart.stages):
                stage = stages[kinds.index(kind)]
                self.assertEqual(own.layout, stage.layout)
                self.assertEqual(own.takes, stage.takes)
                self.assertEqual(own.gives, stage.gives)
                self.assertEqual(own.program.blocks, stage.program.blocks)

    def test_tables_are_those_of_a_program_that_is_cut_anew(self) -> None:
        for cell in CELLS:
            shared, alone = (block_table(self.planning, cell, blocks=blocks)
                             for blocks in (self.blocks, None))
            for column in ("forward_s", "input_s", "weight_s", "once_s",
                           "saved_bytes", "transient_bytes", "taken_bytes",
                           "own_bytes", "kind"):
                np.testing.assert_array_equal(getattr(shared, column),
                                              getattr(alone, column), column)


if __name__ == "__main__":
    unittest.main()
