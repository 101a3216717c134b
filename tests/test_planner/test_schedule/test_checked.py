"""Schedules of names are made once, those of files as the files are now."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from planner.ir.errors import ScheduleError
from planner.schedule.checked import checked_graph
from planner.schedule.named import make_schedule

_CHAIN = ((0, 1), )


class TestCheckedGraph(unittest.TestCase):

    def test_a_name_is_made_once(self) -> None:
        first, again = (checked_graph("1f1b",
                                      ranks=2,
                                      microbatches=3,
                                      chunks=1,
                                      stages=2,
                                      edges=_CHAIN) for _ in range(2))
        self.assertIs(first, again)
        self.assertEqual(first.schedule,
                         make_schedule("1f1b", ranks=2, microbatches=3))

    def test_a_file_is_read_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "own.txt"
            found = []
            for name in ("1f1b", "gpipe"):
                path.write_text(str(
                    make_schedule(name, ranks=2, microbatches=4)),
                                encoding="utf-8")
                found.append(
                    checked_graph(str(path),
                                  ranks=2,
                                  microbatches=4,
                                  chunks=1,
                                  stages=2,
                                  edges=_CHAIN))
        self.assertNotEqual(found[0].schedule, found[1].schedule)

    def test_a_program_of_other_stages_is_refused(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "the program has 3"):
            checked_graph("1f1b",
                          ranks=2,
                          microbatches=4,
                          chunks=1,
                          stages=3,
                          edges=_CHAIN)


if __name__ == "__main__":
    unittest.main()
