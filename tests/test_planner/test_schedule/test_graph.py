"""Numbering of actions, and what each waits for."""

from __future__ import annotations

import unittest

from planner.schedule.engine import finish_times, makespan
from planner.schedule.graph import build_graph, check_edges
from planner.schedule.named import make_schedule
from planner.schedule.text import parse_schedule
from planner.schedule.times import StageTimes


class TestGraph(unittest.TestCase):

    def test_nothing_waits_for_a_later_number(self) -> None:
        graph = build_graph(
            make_schedule("zbv", ranks=4, microbatches=9, chunks=2))
        self.assertFalse(graph.is_stuck)
        self.assertCountEqual(graph.actions, list(graph.schedule.actions))
        for number, (before, need) in enumerate(zip(graph.previous,
                                                    graph.need)):
            self.assertLess(before, number)
            self.assertLess(need, number)

    def test_messages_are_between_ranks(self) -> None:
        graph = build_graph(parse_schedule("0F0 1F0\n2F0"),
                            edges=[(0, 1), (0, 2), (1, 2)])
        names = [(str(graph.actions[s]), str(graph.actions[r]), e)
                 for s, r, e in graph.messages()]
        self.assertEqual(names, [("0F0", "2F0", 1), ("1F0", "2F0", 2)])

    def test_stuck_schedule_has_fewer_actions(self) -> None:
        graph = build_graph(parse_schedule("0F0 0B0 0F1\n1F0 1F1"))
        self.assertTrue(graph.is_stuck)
        self.assertEqual([str(a) for a in graph.actions], ["0F0", "1F0"])

    def test_edges_are_sorted_and_single(self) -> None:
        self.assertEqual(check_edges([(1, 2), (0, 1), (1, 2)], 3),
                         ((0, 1), (1, 2)))
        self.assertEqual(check_edges(None, 3), ((0, 1), (1, 2)))
        self.assertEqual(check_edges([], 3), ())


class TestFinishTimes(unittest.TestCase):

    def test_all_loops_agree(self) -> None:
        schedule = make_schedule("1f1b", ranks=3, microbatches=5)
        times = StageTimes.uniform(3)
        plain = build_graph(schedule)
        # A second edge between the same stages changes nothing but the loop.
        skips = build_graph(schedule, [(0, 1), (1, 2), (0, 2)])
        self.assertTrue(skips.more)
        self.assertEqual(makespan(plain, times), makespan(skips, times))
        for graph in (plain, skips):
            self.assertEqual(finish_times(graph, times, 0.5),
                             finish_times(graph, times, 0.5, 0.0))


if __name__ == "__main__":
    unittest.main()
