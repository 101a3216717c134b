"""Schedules from text and back."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from planner.ir.errors import ScheduleError
from planner.schedule.actions import KINDS, Action, Schedule
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.text import load_schedule, parse_schedule

_ROWS = st.lists(st.lists(
    st.builds(Action, st.sampled_from(KINDS), st.integers(0, 99),
              st.integers(0, 999))),
                 min_size=1)


class TestRoundTrip(unittest.TestCase):

    @given(_ROWS)
    def test_any_schedule(self, rows: list[list[Action]]) -> None:
        schedule = Schedule(tuple(map(tuple, rows)))
        self.assertEqual(parse_schedule(str(schedule)), schedule)
        self.assertEqual(str(parse_schedule(str(schedule))), str(schedule))

    def test_named_schedules(self) -> None:
        for name in schedule_names():
            chunks = 2 if name in ("zbv", "dualpipev") else 1
            schedule = make_schedule(name,
                                     ranks=3,
                                     microbatches=11,
                                     chunks=chunks)
            with self.subTest(name):
                self.assertEqual(parse_schedule(str(schedule)), schedule)


class TestParse(unittest.TestCase):

    def test_separators_idle_slots_and_comments(self) -> None:
        text = """
        # two ranks
        0F0,  0F1 , ,.  0B0,,0B1   # the first

        . 1F0 1I0\t1W0
        """
        self.assertEqual(str(parse_schedule(text)),
                         "0F0 0F1 0B0 0B1\n1F0 1I0 1W0")

    def test_columns_are_aligned(self) -> None:
        self.assertEqual(str(parse_schedule("0F0 0F10 0B0\n.\n1F0 1F1 1B0")),
                         "0F0 0F10 0B0\n.\n1F0 1F1  1B0")

    def test_tables_of_torch_are_read(self) -> None:
        self.assertEqual(str(parse_schedule("0F0,0F1,,0B0,0B1\n,1F0,1B0,1F1")),
                         "0F0 0F1 0B0 0B1\n1F0 1B0 1F1")


class TestErrors(unittest.TestCase):

    def refused(self, text: str, message: str) -> None:
        with self.assertRaisesRegex(ScheduleError, message):
            parse_schedule(text, where="my.txt")

    def test_names_line_and_token(self) -> None:
        self.refused("0F0\n\n1F0 F1", "my.txt, line 3: 'F1' is no action")
        self.refused("0F-1", "line 1: '0F-1' is no action")

    def test_unknown_kind(self) -> None:
        self.refused("0F0 0SEND_F0", "line 1: '0SEND_F0' is no action")
        self.refused("0X0", "'0X0' has the unknown kind 'X'; kinds are F")

    def test_empty(self) -> None:
        self.refused("# nothing\n", "my.txt is empty")


class TestLoad(unittest.TestCase):

    def test_from_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mine.txt"
            path.write_text("0F0 0B0\n", encoding="utf-8")
            self.assertEqual(str(load_schedule(path)), "0F0 0B0")
            self.assertEqual(load_schedule(str(path)), load_schedule(path))
            path.write_text("0F0 0B\n", encoding="utf-8")
            with self.assertRaisesRegex(ScheduleError,
                                        "mine.txt, line 1: '0B'"):
                load_schedule(path)

    def test_missing_file(self) -> None:
        with self.assertRaisesRegex(ScheduleError,
                                    "can't read the schedule 'no/such'"):
            load_schedule("no/such")


if __name__ == "__main__":
    unittest.main()
