"""Every block as a stage of its own, found once for many layouts."""

from __future__ import annotations

import dataclasses
import unittest

import numpy as np

from planner.cluster import load_cluster
from planner.ir.layout import Placement, R, S, V
from planner.ir.layouts import ProgramLayout
from planner.joint.apart import BlocksApart
from planner.joint.space import Cell
from planner.joint.tables import block_table
from planner.pipeline.early_values import early_values
from planner.pipeline.means import count_ahead
from planner.pipeline.stage_cost import wire_bytes
from planner.pipeline.stages import split_stages
from planner.planning import Planning
from tests.test_planner.test_joint.test_joint import BATCH, llama
from tests.test_planner.test_planning.programs import zoo

CELLS = (Cell(rows=BATCH), Cell(rows=1), Cell(tp=2, rows=1), Cell(cp=2,
                                                                  rows=1),
         Cell(tp=4, rows=2), Cell(tp=2, rows=BATCH))


def _with_hub(layout: ProgramLayout, name: str, label: str,
              own: Placement) -> ProgramLayout:
    """With a value in another layout over the first axis."""
    cls = layout.classes[name]
    hub = (own, *cls.hubs[label][1:])
    found = dataclasses.replace(cls, hubs={**cls.hubs, label: hub})
    return dataclasses.replace(layout, classes={**layout.classes, name: found})


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
            alike = apart.alike.tolist()
            for number, own in enumerate(apart.stages):
                stage = stages[alike.index(number)]
                self.assertEqual(own.layout, stage.layout)
                self.assertEqual(own.takes, stage.takes)
                self.assertEqual(own.gives, stage.gives)
                self.assertEqual(own.program.blocks, stage.program.blocks)

    def test_blocks_that_take_other_layouts_are_not_alike(self) -> None:
        """The first layer brings what is embedded into the layout that the
        others get."""
        layout = block_table(self.planning, Cell(tp=2, rows=1)).layout
        assert layout is not None
        first, second, *_ = self.planning.program.blocks[1:]
        self.assertEqual(first.block_class, second.block_class)
        source, label = "LlamaForCausalLM", "model.embed_tokens.embedding"
        for made, is_alike in ((R, True), (S(2), False)):
            found = self.blocks.of(_with_hub(
                _with_hub(layout, source, label, made), first.block_class,
                "add.1", R),
                                   exact=True)
            one, other = found.alike[1:3].tolist()
            self.assertEqual(one == other, is_alike)
            self.assertEqual(*found.kind[1:3].tolist())
            self.assertEqual(len(found.by_kind()), len(set(found.kind)))

    def test_blocks_hand_back_sums_of_gradients(self) -> None:
        stream = {("LlamaForCausalLM", "model.embed_tokens.embedding"),
                  ("LlamaDecoderLayer", "add.1")}
        handed = self.planning.facts.handed_on
        self.assertLessEqual(stream, handed)
        self.assertNotIn(("LlamaForCausalLM", "model.rotary_emb._to_copy.2"),
                         handed)
        for cell in CELLS:
            layout = block_table(self.planning, cell).layout
            assert layout is not None
            if cell.tp > 1:
                axis = layout.mesh.names.index("tp")
                for name, label in stream:
                    self.assertNotEqual(layout.classes[name].hubs[label][axis],
                                        V)

    def test_tables_are_those_of_a_program_that_is_cut_anew(self) -> None:
        for cell in CELLS:
            shared, alone = (block_table(self.planning, cell, blocks=blocks)
                             for blocks in (self.blocks, None))
            for column in ("forward_s", "input_s", "weight_s", "once_s",
                           "saved_bytes", "transient_bytes", "taken_bytes",
                           "handed_bytes", "own_bytes", "kind"):
                np.testing.assert_array_equal(getattr(shared, column),
                                              getattr(alone, column), column)

    def test_blocks_wait_for_what_the_one_before_makes(self) -> None:
        """A decoder's have what the encoder made long before."""
        planning = Planning(count_ahead(zoo("t5")),
                            load_cluster("h100-sxm:1x8"))
        table = block_table(planning, Cell(rows=1))
        assert table.layout is not None
        main, laid, _ = early_values(planning.program, table.layout)
        stages = split_stages(main, laid, {
            b.name: i
            for i, b in enumerate(main.blocks)
        })
        handed = [
            sum(wire_bytes(s, n) for n, made in s.takes.items() if made == i)
            for i, s in enumerate(stages, -1)
        ]
        self.assertEqual(table.handed_bytes.tolist(), handed)
        last = table.blocks.index("decoder.block.1")
        self.assertLess(table.handed_bytes[last], table.taken_bytes[last])


if __name__ == "__main__":
    unittest.main()
