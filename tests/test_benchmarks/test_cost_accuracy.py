"""A quick run, and its cache."""

from __future__ import annotations

import contextlib
import io
import tempfile
from unittest import TestCase

from benchmarks.cost_accuracy import accuracy, main, parse_arguments
from benchmarks.predictions import Row
from tests.launch import launch


def _quick(rank: int, folder: str) -> list[Row]:
    del rank
    return accuracy(parse_arguments(["--quick", "--cache", folder]))


class TestQuick(TestCase):

    def test_two_ranks(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rows, other = launch(2, _quick, folder, timeout_s=120.0)
        self.assertEqual([r.plan for r in rows], ["searched", "ddp"])
        for mine, theirs in zip(rows, other, strict=True):
            self.assertEqual(mine.predicted_s, theirs.predicted_s)
            self.assertGreater(mine.predicted_s, 0)
            self.assertGreater(mine.measured_s, 0)
            self.assertGreater(mine.pace, 0)
            self.assertEqual(mine.paced_s, theirs.paced_s)
            self.assertGreater(mine.paced_s, 0)

    def test_quick_keeps_out_of_the_user_s_cache(self) -> None:
        err = io.StringIO()
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(err):
            main(["--quick"])
        self.assertIn("--cache", err.getvalue())
