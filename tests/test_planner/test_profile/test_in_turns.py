"""What is said of two or three things that ran in turns."""

from __future__ import annotations

import unittest
from unittest import TestCase

from planner.profile.in_turns import COMPARED, compared_runs
from planner.profile.job import Job
from planner.profile.measure import measure_points
from planner.profile.point import Groups, Point
from tests.launch import launch

_TOGETHER = Groups(shape=(1, 2), axis=1)
_POINTS = (
    Point(kind="interference", sizes=(64, 4096), groups=_TOGETHER),
    Point(kind="lateness", sizes=(64, 4, 4096), groups=_TOGETHER),
    Point(kind="alone_speedup",
          sizes=(64, 4, 4096),
          groups=Groups(shape=(2, 1), axis=1, alone=True)),
)


class TestCompared(TestCase):

    def test_all_kinds_are_measured(self) -> None:
        self.assertEqual({p.kind for p in _POINTS}, set(COMPARED))

    def test_interference(self) -> None:
        """Of 2 s that can be hidden half a second is not."""
        found = COMPARED["interference"]
        self.assertEqual(found((4.0, 2.0, 4.5)), 0.25)
        self.assertEqual(found((2.0, 4.0, 4.5)), 0.25)
        self.assertEqual(found((4.0, 2.0, 3.9)), 0.0)
        self.assertEqual(found((4.0, 2.0, 7.0)), 1.0)

    def test_lateness(self) -> None:
        self.assertEqual(COMPARED["lateness"]((2.0, 3.5)), 1.5)
        self.assertGreater(COMPARED["lateness"]((2.0, 1.5)), 0.0)

    def test_alone_speedup(self) -> None:
        self.assertEqual(COMPARED["alone_speedup"]((3.0, 2.0)), 1.5)


def _measured(rank: int) -> tuple[list[float], list[bool]]:
    del rank
    job = Job.joined("cpu")
    outcome = measure_points(_POINTS, job, None, budget_s=20.0)
    waits = [
        run is None for point in _POINTS for run in compared_runs(point, job)
    ]
    return [outcome.known[p].median for p in _POINTS], waits


class TestRanks(TestCase):

    def test_two_ranks_agree(self) -> None:
        (first, ran), (second, waited) = launch(2, _measured)
        self.assertEqual(first, second)
        interference, late_s, speedup = first
        self.assertTrue(0.0 <= interference <= 1.0)
        self.assertGreater(late_s, 0.0)
        self.assertGreater(speedup, 0.0)
        self.assertFalse(any(ran))
        # All but the last, products on the first rank alone.
        self.assertEqual(waited, [False] * 6 + [True])


if __name__ == "__main__":
    unittest.main()
