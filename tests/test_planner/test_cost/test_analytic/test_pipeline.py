from __future__ import annotations

import unittest

import numpy as np

from planner.cost.analytic.configurations import (DUALPIPEV, FLUSH, FULL,
                                                  GPIPE, ZBH1, ZBV,
                                                  Configurations)
from planner.cost.analytic.pipeline import in_flight, pipeline_time_s


def _time_s(**changes: int) -> float:
    plan = Configurations(**{"pp": 4, "num_microbatches": 8, **changes})
    return float(pipeline_time_s(plan, 3.0, 0.0))


class TestTime(unittest.TestCase):

    def test_bubbles_as_published(self) -> None:
        # Qi et al. 2024 (arXiv 2401.10241): p - 1 times F + B + W, and
        # F + B - W, of one third of a micro-batch each.
        self.assertAlmostEqual(_time_s(), 8 * 3 + 3 * 3)
        self.assertAlmostEqual(_time_s(schedule=GPIPE), 8 * 3 + 3 * 3)
        self.assertAlmostEqual(_time_s(schedule=ZBH1), 8 * 3 + 3 * 1)
        self.assertLess(_time_s(schedule=ZBV, chunks=2), 8 * 3 + 3 * 1)
        self.assertAlmostEqual(_time_s(chunks=2), 8 * 3 + 3 * 1.5)

    def test_a_forward_that_is_made_again(self) -> None:
        # A quarter each, and two for the backward of inputs.
        self.assertAlmostEqual(_time_s(schedule=ZBH1, recompute=FULL),
                               8 * 3 + 3 * 3 / 4 * 2)

    def test_no_schedule_takes_less_than_its_work(self) -> None:
        for schedule in (FLUSH, GPIPE, ZBH1, ZBV, DUALPIPEV):
            for count in (1, 4, 8, 64):
                chunks = 2 if schedule in (ZBV, DUALPIPEV) else 1
                self.assertGreaterEqual(
                    _time_s(schedule=schedule,
                            chunks=chunks,
                            num_microbatches=count) + 1e-9, 3 * count)

    def test_schedules_of_many_plans(self) -> None:
        schedules = np.array([ZBH1, FLUSH, GPIPE, ZBH1])
        plan = Configurations(pp=4, num_microbatches=8, schedule=schedules)
        found = pipeline_time_s(plan, 3.0, 0.0)
        np.testing.assert_allclose(found, [27.0, 33.0, 33.0, 27.0])


class TestInFlight(unittest.TestCase):

    def test_one_forward_one_backward(self) -> None:
        plan = Configurations(pp=4, num_microbatches=16)
        self.assertEqual(float(in_flight(plan, False)), 4)
        self.assertEqual(float(in_flight(plan, True)), 1)
        divided = Configurations(pp=4, chunks=2, num_microbatches=16)
        # Korthikanti et al.: 1 + (p - 1) / (p v) times as much.
        self.assertEqual(float(in_flight(divided, False)), 4 * (1 + 3 / 8))
        few = Configurations(pp=4, num_microbatches=2)
        self.assertEqual(float(in_flight(few, False)), 2)

    def test_other_schedules(self) -> None:
        for schedule, chunks, held in ((GPIPE, 1, 16), (ZBH1, 1, 4),
                                       (ZBV, 2, 4), (DUALPIPEV, 2, 4.5)):
            plan = Configurations(pp=4,
                                  chunks=chunks,
                                  num_microbatches=16,
                                  schedule=schedule)
            for last in (False, True):
                self.assertEqual(float(in_flight(plan, last)), held)


if __name__ == "__main__":
    unittest.main()
