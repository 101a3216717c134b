"""Raw points: kept at once, by machine, and found again."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from unittest import TestCase, mock

from planner.profile.point import Groups, Point
from planner.profile.store import Measured, SpoiltStore, Store


class TestStore(TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "deep" / "points.sqlite"

    def _opened(self, device: str = "here") -> Store:
        store = Store(self.path, device)
        self.addCleanup(store.close)
        return store

    def test_round_trip(self) -> None:
        first = Point(kind="mm", sizes=(2, 3, 4), variant="nt")
        second = Point(kind="send",
                       sizes=(8, ),
                       groups=Groups(shape=(2, 2), axis=0))
        store = self._opened()
        store.put(first, Measured(median=0.5, count=3))
        store.put(second, Measured(median=0.25, count=4))
        store.put(first, Measured(median=0.75, count=5))
        # Another connection sees what the first has not closed yet.
        self.assertEqual(
            self._opened().all(), {
                ("mm", "float32", "2x3x4 nt", ""): Measured(median=0.75,
                                                            count=5),
                ("send", "float32", "8", "2x2/0"): Measured(median=0.25,
                                                            count=4),
            })
        self.assertEqual(self._opened("elsewhere").all(), {})

    def test_no_database(self) -> None:
        self.path.parent.mkdir()
        self.path.write_text("name: local\n" * 100, encoding="utf-8")
        with self.assertRaisesRegex(SpoiltStore, "move it away"):
            Store(self.path, "here")

    def test_another_table(self) -> None:
        self.path.parent.mkdir()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE points (device TEXT)")
        with self.assertRaisesRegex(SpoiltStore, "no such column"):
            Store(self.path, "here")

    def test_times_that_are_none(self) -> None:
        store = self._opened()
        for size, median in ((1, 0.0), (2, -1.0), (3, 1.0)):
            store.put(Point(kind="add", sizes=(size, )),
                      Measured(median=median, count=1))
        store._connection.execute("INSERT INTO points VALUES "
                                  "('here', 'add', 'a', 'b', 'c', 'slow', 1)")
        self.assertEqual([row[2] for row in store.all()], ["3"])

    def test_a_file_that_others_keep(self) -> None:
        self._opened()
        with contextlib.closing(sqlite3.connect(self.path)) as other, \
                contextlib.closing(sqlite3.connect(self.path,
                                                   timeout=0.0)) as waiting:
            other.execute("BEGIN EXCLUSIVE")
            with mock.patch("sqlite3.connect", return_value=waiting), \
                    self.assertRaisesRegex(ValueError, "locked") as caught:
                Store(self.path, "here")
        self.assertNotIsInstance(caught.exception, SpoiltStore)
