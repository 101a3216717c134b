"""What is said of cells before they are laid out holds once they are."""

from __future__ import annotations

import dataclasses
import itertools
import unittest
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.joint.bounds import CellBounds
from planner.joint.held import in_each_stage
from planner.joint.links import Links
from planner.joint.optimistic import Optimistic
from planner.joint.parts import Parts
from planner.joint.space import Cell
from planner.schedule.actions import chain
from planner.schedule.checked import checked_graph
from tests.test_planner.test_joint.made_up import MadeUp, scores_on, two_nodes
from tests.test_planner.test_joint.test_branch import programs, spaces


class TestInFlight(unittest.TestCase):

    def test_every_stage_of_a_rank_holds_some_at_once(self) -> None:
        """At the moment at which the emptiest of them holds most."""
        cases = itertools.product(
            (("interleaved1f1b", 2), ("interleaved1f1b", 4), ("zbv", 2)),
            (2, 3, 4), (1, 1.5, 2, 4))
        for (name, chunks), ranks, times in cases:
            count = int(ranks * times)
            graph = checked_graph(name,
                                  ranks=ranks,
                                  microbatches=count,
                                  chunks=chunks,
                                  stages=ranks * chunks,
                                  edges=chain(ranks * chunks))
            for rank, row in enumerate(graph.numbers):
                held = Counter({
                    s: 0
                    for s, r in enumerate(graph.schedule.stage_rank)
                    if r == rank
                })
                least = 0
                for action in (graph.actions[n] for n in row):
                    held[action.stage] += {"F": 1, "I": 0}.get(action.kind, -1)
                    least = max(least, min(held.values()))
                found = in_each_stage(name, ranks, count, chunks)[rank]
                self.assertEqual(found, least, (name, ranks, count, rank))


class TestBounds(unittest.TestCase):

    @settings(max_examples=15, deadline=None)
    @given(programs(), st.sampled_from([2, 4, 8]), st.booleans(),
           st.floats(0.2, 1.5), st.sampled_from([1.0, 1.7, 4.0]))
    def test_no_way_is_quicker_or_smaller(self, program: MadeUp, ranks: int,
                                          knows_all: bool, room: float,
                                          alone_speedup: float) -> None:
        """Knowing the table of one rank alone, or those of all cells."""
        space = spaces(program, ranks, 8)
        cluster = two_nodes(ranks, 1e9, alone_speedup=alone_speedup)
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
                closely = bounds.closely(way, limit)
                for point in space.in_orders(way):
                    score = scores.score(point)
                    over = max(0, score.memory_bytes - limit)
                    self.assertLessEqual(excess, over)
                    most_s = score.time_s * (1 + 1e-9)
                    self.assertLessEqual(time_s, most_s)
                    self.assertLessEqual(closely, (over, most_s))
                    if point.is_staged:
                        simulated_s = scores.simulated_s(point)
                        self.assertLessEqual(score.time_s,
                                             simulated_s * (1 + 1e-9))


def one_block(losses: tuple[float, float, float]) -> MadeUp:
    """A row takes two seconds on one rank."""
    return MadeUp(forward_s=(1.0, ),
                  input_s=(1.0, ),
                  weight_s=(0.0, ),
                  parameter_bytes=(1.0, ),
                  saved_bytes=(1.0, ),
                  losses=losses)


class TestOptimistic(unittest.TestCase):

    @settings(max_examples=15, deadline=None)
    @given(programs(), st.sampled_from([4, 8]))
    def test_no_entry_is_more_than_it_will_be(self, program: MadeUp,
                                              ranks: int) -> None:
        whole = Cell(rows=8)
        found = Optimistic(program.table(whole))
        cells = list(spaces(program, ranks, 8).cells())
        for cell in cells:
            if sum(n > 1 for n in (cell.ep, cell.cp, cell.tp)) < 2:
                found.learn(program.table(cell))
        for cell in cells:
            least, table = found.table(cell), program.table(cell)
            for name in ("work_s", "saved_bytes", "kept_bytes",
                         "parameter_bytes", "state_bytes", "once_s"):
                for low, own in zip(getattr(least, name),
                                    getattr(table, name),
                                    strict=True):
                    self.assertLessEqual(low, own * (1 + 1e-9), name)

    def test_two_axes_cost_what_both_cost_alone(self) -> None:
        program = one_block((1.0, 1.5, 1.25))
        found = Optimistic(program.table(Cell(rows=8)))
        both = Cell(cp=2, tp=2, rows=8)
        self.assertEqual(found.row_s(both), (2.0, 0.0))
        found.learn(program.table(Cell(cp=2, rows=8)))
        self.assertEqual(found.row_s(both), (3.0, 0.0))
        before = found.changes(both)
        found.learn(program.table(Cell(tp=2, rows=8)))
        self.assertEqual(found.row_s(both), (3.5, 0.0))
        self.assertEqual(found.changes(both), before + 1)
        self.assertEqual(found.row_s(Cell(cp=2, rows=4)), (3.0, 0.0))

    def test_one_axis_is_parted_from_two(self) -> None:
        program = one_block((1.5, 2.0, 1.5))
        three = Cell(ep=2, cp=2, tp=2, rows=4)
        found = Optimistic(program.table(Cell(rows=8)))
        cells = Parts(8).all(three)
        self.assertEqual(len(cells), 8)
        for cell in cells[:5]:
            found.learn(program.table(cell))
        self.assertAlmostEqual(
            found.row_s(three)[0], 0.995 * (2.0 + 1.0 + 2.0 + 1.0))
        for cell in cells[5:]:
            found.learn(program.table(cell))
        # Two axes take 4.5 or 6.0, with another besides.
        self.assertAlmostEqual(found.row_s(three)[0], 0.995 * (6.0 + 1.0))

    def test_a_rank_of_one_row_is_told_by_such_alone(self) -> None:
        """What it has of positions is joined without copies."""
        program = one_block((1.0, 1.5, 1.25))
        one, pair, both = (Cell(tp=2, rows=n) for n in (1, 2, 16))
        for rows, told in ((pair, False), (both, True)):
            found = Optimistic(program.table(Cell(rows=16)))
            before = found.row_s(one)
            found.learn(program.table(rows))
            self.assertEqual(found.row_s(one) > before, told)
            self.assertGreater(found.row_s(pair), before)
        experts = Cell(ep=2, tp=2, rows=2)
        self.assertTrue(experts.is_by_row)
        found = Optimistic(program.table(Cell(rows=16)))
        found.learn(program.table(one))
        self.assertEqual(found.row_s(experts), before)

    def test_what_is_held_is_told_by_cells_with_fewer_rows(self) -> None:
        few, many = Cell(ep=2, rows=4), Cell(ep=2, rows=8)
        self.assertTrue(few.tells_what_is_held(many))
        self.assertTrue(few.tells_what_is_held(Cell(ep=4, tp=2, rows=4)))
        self.assertFalse(many.tells_what_is_held(few))
        self.assertFalse(Cell(ep=4, rows=4).tells_what_is_held(many))
        self.assertTrue(
            Cell(cp=2, rows=8).tells_what_is_held(Cell(cp=2, rows=4)))

    def test_what_is_saved_is_told_along_tp(self) -> None:
        cell = Cell(ep=2, cp=2, tp=2, rows=4)
        self.assertTrue(cell._replace(rows=8).tells_what_is_saved(cell))
        self.assertTrue(Cell(tp=2, rows=8).tells_what_is_saved(cell))
        self.assertFalse(Cell(cp=2, rows=4).tells_what_is_saved(cell))

    def test_more_rows_may_hold_more(self) -> None:
        """Experts that are whole with many rows do not rule out few."""
        program = one_block((1.5, 2.0, 1.5))
        whole, few = Cell(ep=2, rows=8), Cell(ep=2, rows=4)
        table = program.table(whole)
        found = Optimistic(program.table(Cell(rows=16)))
        least = found.table(few).parameter_bytes.sum()
        found.learn(
            dataclasses.replace(table,
                                parameter_bytes=10 * table.parameter_bytes))
        self.assertEqual(found.table(few).parameter_bytes.sum(), least)
        self.assertGreater(found.table(whole).parameter_bytes.sum(), least)


class TestParts(unittest.TestCase):

    def test_an_axis_alone_is_among_neighbours(self) -> None:
        found = Parts(16)
        self.assertEqual(found.alone(Cell(ep=2, tp=4, rows=4)), [
            Cell(rows=4),
            Cell(ep=2, rows=4),
            Cell(tp=4, rows=2),
        ])
        self.assertEqual(
            found.alone(Cell(cp=2, tp=2, rows=8)),
            [Cell(rows=8),
             Cell(cp=2, rows=8),
             Cell(tp=2, rows=8)])
        self.assertEqual(found.first(Cell(ep=2, tp=4, rows=4)), [
            Cell(rows=16),
            Cell(ep=2, rows=16),
            Cell(tp=4, rows=16),
        ])

    def test_fewer_ranks_of_an_axis_come_first(self) -> None:
        found = Parts(16, sizes={"tp": [1, 2, 3, 4, 6, 8, 12]})
        self.assertEqual([c.tp for c in found.first(Cell(tp=12, rows=1))],
                         [1, 2, 4, 12])
        found = Parts(16, sizes={"tp": [12]})
        self.assertEqual([c.tp for c in found.first(Cell(tp=12, rows=1))],
                         [1, 12])


if __name__ == "__main__":
    unittest.main()
