"""What is said of cells before they are laid out holds once they are."""

from __future__ import annotations

import unittest

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.joint.bounds import CellBounds
from planner.joint.links import Links
from planner.joint.space import Cell
from tests.test_planner.test_joint.made_up import MadeUp, scores_on, two_nodes
from tests.test_planner.test_joint.test_branch import programs, spaces


class TestBounds(unittest.TestCase):

    @settings(max_examples=15, deadline=None)
    @given(programs(), st.sampled_from([2, 4, 8]), st.booleans(),
           st.floats(0.2, 1.5))
    def test_no_way_is_quicker_or_smaller(self, program: MadeUp, ranks: int,
                                          knows_all: bool,
                                          room: float) -> None:
        """Knowing the table of one rank alone, or those of all cells."""
        space, cluster = spaces(program, ranks, 8), two_nodes(ranks, 1e9)
        links = Links(cluster)
        tables = [
            scores_on(program, cluster, links, c)
            for c in (Cell(rows=8), *space.cells())
        ]
        limit = room * float(tables[0].table.parameter_bytes.sum()) * 3
        bounds = CellBounds(space, links, program.state,
                            np.ones(len(program.forward_s), dtype=np.bool_),
                            limit)
        for scores in tables[:None if knows_all else 1]:
            bounds.learn(scores.table)
        for scores in tables[1:]:
            cell = scores.table.cell
            least = bounds.of(cell)
            for excess, time_s, way in bounds.each(cell):
                self.assertLessEqual(least, (excess, time_s))
                for point in space.in_orders(way):
                    score = scores.score(point)
                    over = max(0, score.memory_bytes - limit)
                    self.assertLessEqual(excess, over)
                    self.assertLessEqual(time_s, score.time_s * (1 + 1e-9))


if __name__ == "__main__":
    unittest.main()
