"""Schedules against their closed forms."""

from __future__ import annotations

import math
import unittest

from scaletorch.trainer.config import ScheduleConfig
from scaletorch.trainer.schedules import SCHEDULES, schedule


class TestSchedules(unittest.TestCase):

    def test_warm_up_is_the_same_for_all(self) -> None:
        for name in SCHEDULES:
            share = schedule(
                ScheduleConfig(
                    name=name,  # type: ignore[arg-type]
                    warmup_steps=4),
                100)
            self.assertEqual([share(i) for i in range(4)],
                             [0.25, 0.5, 0.75, 1.0])
            self.assertEqual(share(4), 1.0)

    def test_constant(self) -> None:
        share = schedule(ScheduleConfig(name="constant"), 10)
        self.assertEqual({share(i) for i in range(12)}, {1.0})

    def test_linear(self) -> None:
        share = schedule(
            ScheduleConfig(name="linear", warmup_steps=2, final=0.1), 12)
        for step in range(2, 12):
            self.assertAlmostEqual(share(step), 1 - 0.9 * (step - 2) / 10)
        self.assertAlmostEqual(share(12), 0.1)

    def test_cosine(self) -> None:
        share = schedule(
            ScheduleConfig(name="cosine", warmup_steps=5, final=0.2), 25)
        for step in range(5, 26):
            angle = math.pi * (step - 5) / 20
            self.assertAlmostEqual(share(step),
                                   0.2 + 0.8 * (1 + math.cos(angle)) / 2)
        self.assertAlmostEqual(share(99), 0.2)

    def test_wsd(self) -> None:
        share = schedule(
            ScheduleConfig(name="wsd", warmup_steps=2, decay_steps=4), 20)
        self.assertEqual([share(i) for i in range(2, 17)], [1.0] * 15)
        self.assertEqual([share(i) for i in range(17, 21)],
                         [0.75, 0.5, 0.25, 0.0])
        by_tenths = schedule(ScheduleConfig(name="wsd"), 50)
        self.assertEqual(by_tenths(45), 1.0)
        self.assertAlmostEqual(by_tenths(46), 0.8)

    def test_too_long(self) -> None:
        for config in (ScheduleConfig(warmup_steps=11),
                       ScheduleConfig(name="wsd",
                                      warmup_steps=8,
                                      decay_steps=3)):
            with self.assertRaisesRegex(
                    ValueError, "take 11 steps, but "
                    "train.steps is 10"):
                schedule(config, 10)


if __name__ == "__main__":
    unittest.main()
