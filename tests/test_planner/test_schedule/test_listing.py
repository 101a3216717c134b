"""List scheduling: policies do what they say."""

from __future__ import annotations

import dataclasses
import math
import unittest
from typing import Any

from planner.schedule.actions import chain
from planner.schedule.check import check_schedule
from planner.schedule.listing import Policy, Problem, list_schedule
from planner.schedule.named import make_schedule
from planner.schedule.times import StageMemory, StageTimes


def problem(stage_rank: tuple[int, ...], microbatches: int,
            **changes: Any) -> Problem:
    stages, ranks = len(stage_rank), max(stage_rank) + 1
    plain = Problem(stage_rank=stage_rank,
                    microbatches=microbatches,
                    times=StageTimes.uniform(stages),
                    edges=chain(stages),
                    p2p_s=0.0,
                    memory=StageMemory.uniform(stages),
                    cap_bytes=(math.inf, ) * ranks)
    return dataclasses.replace(plain, **changes)


def listed(case: Problem, **policy: Any) -> str:
    schedule = list_schedule(case, Policy(**policy))
    assert schedule is not None
    check_schedule(schedule,
                   edges=case.edges,
                   stages=len(case.stage_rank),
                   microbatches=case.microbatches)
    return str(schedule)


class TestPolicies(unittest.TestCase):

    def test_forwards_first_is_gpipe(self) -> None:
        self.assertEqual(
            listed(problem((0, 1, 2), 4), prefer="forward", weights="whole"),
            str(make_schedule("gpipe", ranks=3, microbatches=4)))

    def test_backwards_first_within_memory_is_1f1b(self) -> None:
        self.assertEqual(
            listed(problem((0, 1, 2), 5, cap_bytes=(3.0, 2.0, 1.0)),
                   weights="whole"),
            str(make_schedule("1f1b", ranks=3, microbatches=5)))

    def test_weights_next_to_inputs(self) -> None:
        self.assertEqual(listed(problem((0, ), 2), weights="next"),
                         "0F0 0I0 0W0 0F1 0I1 0W1")

    def test_weights_in_gaps(self) -> None:
        self.assertEqual(listed(problem((0, ), 2)), "0F0 0I0 0F1 0I1 0W0 0W1")

    def test_weights_free_memory(self) -> None:
        self.assertEqual(listed(problem((0, ), 2, cap_bytes=(1.0, ))),
                         "0F0 0I0 0W0 0F1 0I1 0W1")

    def test_first_or_last_stage(self) -> None:
        case = problem((0, 0), 2)
        self.assertTrue(
            listed(case, forwards=1, prefer="forward").startswith("0F0 1F0"))
        self.assertTrue(
            listed(case, forwards=-1, prefer="forward").startswith("0F0 0F1"))

    def test_turns(self) -> None:
        self.assertEqual(
            listed(problem((0, ), 3), prefer="turns", weights="whole"),
            "0F0 0B0 0F1 0B1 0F2 0B2")


class TestMemory(unittest.TestCase):

    def test_one_micro_batch_is_enough_for_any_placement(self) -> None:
        for stage_rank in ((0, 1, 0, 1), (0, 1, 1, 0), (0, 1, 2, 0, 1, 2, 0, 1,
                                                        2)):
            ranks = max(stage_rank) + 1
            case = problem(stage_rank,
                           5,
                           cap_bytes=(len(stage_rank) / ranks, ) * ranks)
            for prefer in ("backward", "forward", "turns"):
                for weights in ("gaps", "next", "whole"):
                    for forwards in (1, 0, -1):
                        listed(case,
                               prefer=prefer,
                               weights=weights,
                               forwards=forwards)

    def test_less_gives_nothing(self) -> None:
        case = problem((0, 1, 0, 1), 2, cap_bytes=(1.5, 2.0))
        self.assertIsNone(list_schedule(case, Policy()))


if __name__ == "__main__":
    unittest.main()
