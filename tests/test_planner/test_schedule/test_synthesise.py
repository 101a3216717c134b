"""Synthesised schedules: valid, within memory, never slower than named."""

from __future__ import annotations

import math
import unittest
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.ir.errors import InfeasiblePlan, ScheduleError
from planner.schedule.actions import Schedule, chain
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.simulation import simulate
from planner.schedule.synthesise import Synthesis, synthesise
from planner.schedule.times import StageMemory, StageTimes

EFFORT = 8_000
SECONDS = st.integers(1, 12).map(lambda n: n / 4)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, object]:
    """Arguments of `synthesise`."""
    ranks, chunks = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    stages = ranks * chunks
    row = st.lists(SECONDS, min_size=stages, max_size=stages)
    saved = draw(row)
    skips = [(s, t) for t in range(stages) for s in range(t - 1)]
    return {
        "times":
        StageTimes.in_parts(draw(row), draw(row), draw(row)),
        "ranks":
        ranks,
        "microbatches":
        draw(st.integers(1, 6)),
        "edges":
        (*chain(stages),
         *draw(st.lists(st.sampled_from(skips), max_size=2, unique=True)))
        if skips else None,
        "p2p_s":
        draw(st.sampled_from([0.0, 0.25, 2.0])),
        "memory":
        StageMemory(saved_bytes=tuple(saved),
                    held_bytes=tuple(s / 2 for s in saved)),
        "cap_bytes":
        tuple([draw(st.sampled_from([6.0, 12.0, 24.0, math.inf]))] * ranks),
    }


def fitting(problem: dict) -> Iterator[Schedule]:
    """The named schedules within the memory limit."""
    for name in schedule_names():
        try:
            schedule = make_schedule(name,
                                     ranks=problem["ranks"],
                                     microbatches=problem["microbatches"],
                                     chunks=problem["times"].stages //
                                     problem["ranks"])
        except ScheduleError:
            continue
        if fits(schedule, problem):
            yield schedule


def run(schedule: Schedule, problem: dict) -> tuple[float, tuple]:
    found = simulate(schedule,
                     problem["times"],
                     edges=problem["edges"],
                     p2p_s=problem["p2p_s"],
                     memory=problem["memory"])
    return found.makespan_s, found.peak_bytes


def fits(schedule: Schedule, problem: dict) -> bool:
    return all(
        p <= c + 1e-6
        for p, c in zip(run(schedule, problem)[1], problem["cap_bytes"]))


class TestSynthesise(unittest.TestCase):

    @settings(max_examples=60, deadline=None)
    @given(problems())
    def test_valid_within_memory_and_never_slower(self, problem: dict) -> None:
        named = [run(s, problem)[0] for s in fitting(problem)]
        try:
            found = synthesise(**problem, effort=EFFORT)
        except InfeasiblePlan:
            self.assertEqual(named, [])
            self.assert_too_little_memory(problem)
            return
        check_schedule(found.schedule,
                       edges=problem["edges"],
                       stages=problem["times"].stages,
                       microbatches=problem["microbatches"])
        self.assertTrue(fits(found.schedule, problem))
        self.assertAlmostEqual(
            run(found.schedule, problem)[0], found.makespan_s)
        self.assertAlmostEqual(found.best_named_s, min(named,
                                                       default=math.inf))
        self.assertLessEqual(found.makespan_s, found.best_named_s + 1e-9)
        self.assertGreaterEqual(found.makespan_s, found.bound_s - 1e-9)

    def assert_too_little_memory(self, problem: dict) -> None:
        """Even one micro-batch does not fit, as stages are dealt in turn."""
        saved, ranks = problem["memory"].saved_bytes, problem["ranks"]
        self.assertTrue(
            any(
                sum(saved[r::ranks]) > problem["cap_bytes"][r]
                for r in range(ranks)))

    def best(self, seconds: list[float], p2p_s: float, cap: float,
             ranks: int) -> Synthesis:
        return synthesise(StageTimes.in_parts(seconds, seconds, seconds),
                          ranks=ranks,
                          microbatches=8,
                          p2p_s=p2p_s,
                          cap_bytes=[cap] * ranks)

    def test_beats_named_ones_where_stages_are_uneven(self) -> None:
        found = self.best([1, 2, 1, 1], 0.25, 4, ranks=4)
        self.assertEqual((found.best_named, found.best_named_s),
                         ("zbh1", 50.25))
        self.assertEqual((found.makespan_s, found.gap), (49.25, 0.0))
        # An embedding and a head beside layers.
        found = self.best([1.5, 1, 1, 1, 1, 1, 1, 2.2], 0.1, 8, ranks=4)
        self.assertAlmostEqual(found.best_named_s, 83.4)
        self.assertLess(found.makespan_s, 82.2)

    def test_hides_messages_behind_more_micro_batches(self) -> None:
        found = self.best([1, 1, 1, 1], 0.5, math.inf, ranks=4)
        self.assertEqual((found.best_named_s, found.makespan_s),
                         (33.0, found.bound_s))

    def test_fits_where_no_named_one_does(self) -> None:
        found = self.best([1, 1, 1, 1], 0.0, 2, ranks=4)
        self.assertEqual(found.best_named, "")
        self.assertEqual(
            max(simulate(found.schedule, StageTimes.uniform(4)).peak_bytes), 2)
        self.assertLess(found.makespan_s, 8 * 8 + 1)

    def test_equal_stages_reach_the_bound(self) -> None:
        found = self.best([1, 1, 1, 1], 0.0, 4, ranks=4)
        self.assertEqual(found.makespan_s, 27.0)
        self.assertEqual(found.gap, 0.0)

    def test_same_arguments_same_schedule(self) -> None:
        first, second = (self.best([1.5, 1, 1, 1.2], 0.3, 3, ranks=2)
                         for _ in range(2))
        self.assertEqual(first.schedule, second.schedule)

    def test_given_placement_is_kept(self) -> None:
        found = synthesise(StageTimes.uniform(4),
                           ranks=2,
                           microbatches=3,
                           placement=(1, 0, 0, 1))
        self.assertEqual(found.schedule.stage_rank, (1, 0, 0, 1))

    def test_time_limit_still_gives_a_schedule(self) -> None:
        found = synthesise(StageTimes.uniform(8),
                           ranks=4,
                           microbatches=8,
                           p2p_s=0.3,
                           time_limit_s=0.0)
        self.assertEqual(found.makespan_s, found.best_named_s)

    def test_too_little_memory(self) -> None:
        with self.assertRaisesRegex(
                InfeasiblePlan, r"one micro-batch at a time keeps "
                r"\[2.0, 2.0\] bytes .* they may keep \[1.0, 1.0\]; use more"):
            synthesise(StageTimes.uniform(4),
                       ranks=2,
                       microbatches=2,
                       cap_bytes=[1.0, 1.0])

    def test_stages_have_to_deal_evenly(self) -> None:
        with self.assertRaisesRegex(ScheduleError, "3 stages can't be dealt"):
            synthesise(StageTimes.uniform(3), ranks=2, microbatches=2)

    def test_wrong_sizes(self) -> None:
        four = StageTimes.uniform(4)
        with self.assertRaisesRegex(ScheduleError, "cap_bytes has 1 numbers"):
            synthesise(four, ranks=2, microbatches=2, cap_bytes=[1.0])
        for placement in ((0, 1), (0, 0, 0, 0), (0, 1, 2, 3)):
            with self.assertRaisesRegex(ScheduleError, "on all of 2 ranks"):
                synthesise(four, ranks=2, microbatches=2, placement=placement)


if __name__ == "__main__":
    unittest.main()
