"""Actions, schedules and what is derived from them."""

from __future__ import annotations

import unittest

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule, chain, drop_microbatches
from planner.schedule.text import parse_schedule


class TestAction(unittest.TestCase):

    def test_prints_stage_kind_microbatch(self) -> None:
        self.assertEqual(
            [str(Action(*a)) for a in (("F", 0, 3), ("W", 12, 40))],
            ["0F3", "12W40"])

    def test_only_backwards_give_gradients(self) -> None:
        self.assertEqual([Action(k, 0, 0).gives_gradient for k in "FBIW"],
                         [False, True, True, False])


class TestSchedule(unittest.TestCase):

    def test_derives_sizes_and_placement(self) -> None:
        schedule = parse_schedule("0F0 3F0\n1F0 2F0")
        self.assertEqual(schedule.stages, 4)
        self.assertEqual(schedule.microbatches, 1)
        self.assertEqual(schedule.stage_rank, (0, 1, 1, 0))
        self.assertTrue(schedule.is_inference)

    def test_stage_on_two_ranks_is_refused(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "stage 0 is on ranks 0, 1"):
            _ = parse_schedule("0F0\n0F1").stage_rank

    def test_stage_on_no_rank_is_refused(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "stage 0 is on ranks none"):
            _ = parse_schedule("1F0").stage_rank

    def test_empty_schedule_has_nothing(self) -> None:
        self.assertEqual(Schedule(()).stages, 0)
        self.assertEqual(Schedule(()).microbatches, 0)

    def test_drops_microbatches(self) -> None:
        rows = parse_schedule("0F0 0F1 0B0 0B1").ranks
        self.assertEqual(str(drop_microbatches(rows, 1)), "0F0 0B0")

    def test_chain(self) -> None:
        self.assertEqual(chain(1), ())
        self.assertEqual(chain(4), ((0, 1), (1, 2), (2, 3)))


if __name__ == "__main__":
    unittest.main()
