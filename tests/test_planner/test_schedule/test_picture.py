"""The grid in time."""

from __future__ import annotations

import unittest

from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.picture import format_picture
from planner.schedule.simulation import simulate
from planner.schedule.text import parse_schedule
from planner.schedule.times import StageTimes


class TestPicture(unittest.TestCase):

    def test_reads_back_as_the_schedule(self) -> None:
        for name in schedule_names():
            v = 2 if name in ("zbv", "dualpipev") else 1
            schedule = make_schedule(name, ranks=3, microbatches=7, chunks=v)
            found = simulate(schedule, StageTimes.uniform(3 * v), p2p_s=0.4)
            for slot_s in (0.5, 1.0, 3.0):
                self.assertEqual(parse_schedule(format_picture(found, slot_s)),
                                 schedule)

    def test_a_column_is_a_slot(self) -> None:
        found = simulate(parse_schedule("0F0\n1F0"),
                         StageTimes.uniform(2, forward_s=2.0),
                         p2p_s=1.0)
        self.assertEqual(format_picture(found, 1.0),
                         "0F0 -   .   .   .\n.   .   .   1F0 -")


if __name__ == "__main__":
    unittest.main()
