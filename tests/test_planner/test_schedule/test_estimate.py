"""Closed forms against the simulator."""

from __future__ import annotations

import itertools
import random
import unittest
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from planner.ir.errors import ScheduleError
from planner.schedule.engine import makespan
from planner.schedule.estimate import estimate, peak_in_flight
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.simulation import peaks
from planner.schedule.times import StageMemory, StageTimes
from tests.test_planner.test_schedule.test_named import chunk_counts

TIMES = [(1.0, 1.0, 1.0, 0.0), (1.0, 1.3, 0.7, 0.0), (2.0, 0.5, 0.6, 0.0),
         (0.4, 1.0, 2.0, 0.0), (0.5, 2.0, 0.1, 0.0), (3.0, 0.2, 0.3, 0.0),
         (1.0, 1.0, 1.0, 0.1), (1.0, 1.2, 0.9, 2.0), (1.0, 2.0, 0.3, 9.0)]


@lru_cache(maxsize=None)
def graph(name: str, p: int, m: int, v: int) -> ActionGraph:
    return build_graph(make_schedule(name, ranks=p, microbatches=m, chunks=v))


def cases(name: str) -> Iterator[tuple[int, int, int]]:
    yield from itertools.product(range(1, 7), range(1, 14), chunk_counts(name))


def simulated(name: str, p: int, m: int, v: int, times: tuple[float,
                                                              ...]) -> float:
    forward_s, input_s, weight_s, p2p_s = times
    return makespan(
        graph(name, p, m, v),
        StageTimes.uniform(p * v,
                           forward_s=forward_s,
                           input_s=input_s,
                           weight_s=weight_s), p2p_s)


class TestEstimate(unittest.TestCase):

    def exact_share(self, name: str, times: list[tuple[float, ...]]) -> float:
        """Checks exact ones and bounds; how many are exact."""
        exact, count = 0, 0
        for p, m, v in cases(name):
            forward_s, input_s, weight_s, p2p_s = np.array(times).T
            found = estimate(name,
                             ranks=p,
                             microbatches=m,
                             chunks=v,
                             forward_s=forward_s,
                             input_s=input_s,
                             weight_s=weight_s,
                             p2p_s=p2p_s)
            for row, time_s, is_exact in zip(times, found.time_s,
                                             found.is_exact):
                real = simulated(name, p, m, v, row)
                with self.subTest(name, p=p, m=m, v=v, times=row):
                    self.assertLessEqual(time_s, real * (1 + 1e-9))
                    if is_exact:
                        self.assertAlmostEqual(time_s, real)
                exact, count = exact + bool(is_exact), count + 1
        return exact / count

    def test_always_exact(self) -> None:
        for name in ("gpipe", "1f1b", "loopedbfs"):
            self.assertEqual(self.exact_share(name, TIMES), 1.0, name)

    def test_exact_without_messages(self) -> None:
        self.assertEqual(self.exact_share("interleaved1f1b", TIMES[:6]), 1.0)
        self.assertGreater(self.exact_share("zbh1", TIMES[:6]), 0.25)
        self.assertGreater(self.exact_share("zbv", TIMES[:6]), 0.5)
        self.assertGreater(self.exact_share("dualpipev", TIMES[:6]), 0.5)

    def test_bounds_with_messages(self) -> None:
        for name in ("interleaved1f1b", "zbh1", "zbv", "dualpipev"):
            self.exact_share(name, TIMES[6:])

    def test_random_times(self) -> None:
        chance = random.Random(0)
        times = [
            tuple(2.0**chance.uniform(-3, 3)
                  for _ in range(3)) + (chance.choice((0.0, 0.01, 1.0)), )
            for _ in range(6)
        ]
        for name in schedule_names():
            self.exact_share(name, times)

    def test_broadcasts(self) -> None:
        found = estimate("1f1b",
                         ranks=np.arange(1, 5)[:, None],
                         microbatches=np.array([4, 8, 16]))
        self.assertEqual(found.time_s.shape, (4, 3))
        self.assertEqual(found.is_exact.shape, (4, 3))
        self.assertEqual(found.time_s[3, 1], 33.0)

    def test_unknown_name(self) -> None:
        with self.assertRaisesRegex(ScheduleError,
                                    "no closed form of 'auto', only of 1f1b"):
            estimate("auto", ranks=1, microbatches=1)


class TestInFlight(unittest.TestCase):

    def test_every_rank(self) -> None:
        for name in schedule_names():
            for p, m, v in cases(name):
                found = peak_in_flight(name,
                                       ranks=p,
                                       microbatches=m,
                                       chunks=v,
                                       rank=np.arange(p))
                real = peaks(graph(name, p, m, v), StageMemory.uniform(p * v))
                with self.subTest(name, p=p, m=m, v=v):
                    self.assertEqual(found.tolist(), list(map(int, real)))


if __name__ == "__main__":
    unittest.main()
