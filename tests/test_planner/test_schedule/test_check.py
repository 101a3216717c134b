"""What the checker refuses, and in which words."""

from __future__ import annotations

import unittest
from typing import Any

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule
from planner.schedule.check import check_schedule
from planner.schedule.text import parse_schedule


class TestCheck(unittest.TestCase):

    def passes(self, text: str, **options: Any) -> None:
        check_schedule(parse_schedule(text), **options)

    def refused(self, text: str, message: str, **options: Any) -> None:
        with self.assertRaisesRegex(ScheduleError, message):
            check_schedule(parse_schedule(text), **options)

    def test_whole_and_split_backwards(self) -> None:
        self.passes("0F0 0F1 0B0 0I1 0W1\n1F0 1I0 1F1 1B1 1W0")

    def test_missing_work(self) -> None:
        self.refused("0F0 0F1 0B0", "work is missing: 0B1")
        self.refused("0F0 0I0", "work is missing: 0W0")
        self.refused("0F0 0W0", "work is missing: 0I0")
        self.refused("0B0", "work is missing: 0F0")
        self.refused("0F9 0B9", "missing: 0B0, 0F0, 0B1, .* and 12 more")

    def test_doubled_work(self) -> None:
        self.refused("0F0 0F0 0B0", "work is done twice: 0F0")
        self.refused("0F0 0B0 0I0 0W0", "both whole and in parts.*0B0")

    def test_order_on_a_rank(self) -> None:
        self.refused("0F0 0W0 0I0", "rank 0 has 0W0 before 0I0")
        self.refused("0B0 0F0", "rank 0 has 0B0 before 0F0")

    def test_stage_on_one_rank(self) -> None:
        self.refused("0F0 0B0\n0F1 0B1", "stage 0 is on ranks 0, 1")

    def test_expected_sizes(self) -> None:
        self.passes("0F0 0B0", stages=1, microbatches=1)
        self.refused("0F0 0B0",
                     "for 1 stages, and the program has 2",
                     stages=2)
        self.refused("0F0 0B0",
                     "for 1 micro-batches, and the program has 4",
                     microbatches=4)

    def test_unknown_kind(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "0X0 is no action"):
            check_schedule(Schedule(((Action("X", 0, 0), ), )))

    def test_inference(self) -> None:
        self.passes("0F0 0F1\n1F0 1F1", inference=True)
        self.refused("0F0 0F1\n1F0 1F1", "work is missing: 0B0")
        self.refused("0F0 0B0", "backward actions: 0B0", inference=True)


class TestDeadlock(unittest.TestCase):

    def refused(self, text: str, message: str, **options: Any) -> None:
        with self.assertRaisesRegex(ScheduleError, message):
            check_schedule(parse_schedule(text), **options)

    def test_names_every_stuck_rank(self) -> None:
        self.refused(
            "0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0",
            "deadlocks: rank 0 at its action 1, 0B0, waits for 1B0; "
            "rank 1 at its action 0, 1F1, waits for 0F1")

    def test_order_on_the_own_rank(self) -> None:
        self.refused("1F0 0F0 1B0 0B0", "action 0, 1F0, waits for 0F0")

    def test_waits_for_an_input_gradient(self) -> None:
        self.refused("0F0 0F1 0B0 0B1\n1F0 1F1 1I1 1W1 0F2 1I0 1W0",
                     "stage 0 is on ranks")
        self.refused(
            "0F0 0B0 0F1 0B1\n1F0 1F1 1I0 1W0 1B1",
            "rank 0 at its action 1, 0B0, waits for 1I0; rank 1 at its "
            "action 1, 1F1, waits for 0F1")

    def test_skip_edges(self) -> None:
        text = "0F0 0B0\n1F0 1B0\n2F0 2B0"
        check_schedule(parse_schedule(text), edges=[(0, 1), (1, 2), (0, 2)])
        # Fine as two chains, stuck when stage 1 reads stage 0.
        text = "1F0 1B0 0F0 0B0\n2F0 2B0"
        check_schedule(parse_schedule(text), edges=[
            (0, 2),
        ])
        self.refused(text, "1F0, waits for 0F0", edges=[(0, 1), (0, 2)])

    def test_edges_have_to_run_forward(self) -> None:
        for edge in ((1, 0), (0, 0), (0, 2), (-1, 0)):
            with self.subTest(edge):
                self.refused("0F0 0B0\n1F0 1B0",
                             "number the stages in the order",
                             edges=[edge])


if __name__ == "__main__":
    unittest.main()
