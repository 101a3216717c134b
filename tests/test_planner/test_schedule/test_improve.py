"""Local search and fusing."""

from __future__ import annotations

import unittest

from planner.schedule.check import check_schedule
from planner.schedule.graph import build_graph
from planner.schedule.improve import fits, fuse, improve
from planner.schedule.named import make_schedule
from planner.schedule.simulation import simulate
from planner.schedule.text import parse_schedule
from tests.test_planner.test_schedule.test_listing import problem


class TestFuse(unittest.TestCase):

    def test_parts_that_are_next_to_each_other(self) -> None:
        self.assertEqual(
            str(fuse(parse_schedule("0F0 0I0 0W0 0F1 0I1 1F0 0W1"))),
            "0F0 0B0 0F1 0I1 1F0 0W1")

    def test_parts_of_others_stay(self) -> None:
        text = "0F0 0F1 0I0 0I1 0W0 0W1"
        self.assertEqual(str(fuse(parse_schedule(text))), text)


class TestImprove(unittest.TestCase):

    def test_finds_a_better_order(self) -> None:
        # The first rank sends its second micro-batch needlessly late.
        start = parse_schedule("0F0 0B0 0F1 0B1 0F2 0B2\n"
                               "1F0 1B0 1F1 1B1 1F2 1B2")
        case = problem((0, 1), 3)
        before = simulate(start, case.times).makespan_s
        found, time_s = improve(start,
                                case,
                                tries=200,
                                seed=0,
                                is_over=lambda: False)
        check_schedule(found, stages=2, microbatches=3)
        self.assertEqual(simulate(found, case.times).makespan_s, time_s)
        self.assertLess(time_s, before)
        self.assertEqual(time_s, 12.0)

    def test_keeps_to_the_memory_limit(self) -> None:
        start = parse_schedule("0F0 0B0 0F1 0B1\n1F0 1B0 1F1 1B1")
        case = problem((0, 1), 2, cap_bytes=(1.0, 1.0))
        found, time_s = improve(start,
                                case,
                                tries=100,
                                seed=0,
                                is_over=lambda: False)
        self.assertTrue(fits(build_graph(found), case))
        self.assertEqual(time_s, 12.0)

    def test_stops_when_told(self) -> None:
        start = make_schedule("gpipe", ranks=2, microbatches=3)
        found, _ = improve(start,
                           problem((0, 1), 3),
                           tries=100,
                           seed=0,
                           is_over=lambda: True)
        self.assertEqual(found, start)


if __name__ == "__main__":
    unittest.main()
