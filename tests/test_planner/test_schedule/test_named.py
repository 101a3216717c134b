"""The named schedules: valid, as published, and as good as torch's."""

from __future__ import annotations

import logging
import tempfile
import types
import unittest
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.distributed.pipelining import schedules as theirs

from planner.ir.errors import ScheduleError
from planner.schedule.actions import Action, Schedule
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.registry import register
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes
from tests.golden import check_golden

ONE_CHUNK, V_SHAPED = ("gpipe", "1f1b"), ("zbv", "dualpipev")


def chunk_counts(name: str) -> tuple[int, ...]:
    if name in V_SHAPED:
        return (2, )
    return (1, ) if name in ONE_CHUNK else (1, 2, 3)


def sizes(name: str) -> Iterator[tuple[int, int, int]]:
    """Ranks, micro-batches and chunks, also awkward ones."""
    for ranks in range(1, 6):
        for microbatches in range(1, 14):
            for chunks in chunk_counts(name):
                yield ranks, microbatches, chunks


def made(name: str, ranks: int, microbatches: int, chunks: int) -> Schedule:
    return make_schedule(name,
                         ranks=ranks,
                         microbatches=microbatches,
                         chunks=chunks)


def torchs(schedule_class: Any, ranks: int, microbatches: int,
           chunks: int) -> Schedule | None:
    """torch's own order, None for numbers that it refuses."""
    stages = ranks * chunks
    stub = [
        types.SimpleNamespace(group_size=ranks,
                              num_stages=stages,
                              group_rank=0,
                              stage_index=s,
                              is_first=s == 0,
                              is_last=s == stages - 1,
                              has_backward=True,
                              submod=None) for s in range(0, stages, ranks)
    ]
    is_single = issubclass(schedule_class, theirs.PipelineScheduleSingle)
    try:
        built = schedule_class(stub[0] if is_single else stub,
                               microbatches,
                               loss_fn=max)
        table = (built._get_pipeline_order()
                 if is_single else built.pipeline_order)
    except ValueError:
        return None
    return Schedule(tuple(tuple(actions(table[r])) for r in sorted(table)))


def actions(row: list[Any]) -> Iterator[Action]:
    kinds = {
        "FORWARD": "F",
        "FULL_BACKWARD": "B",
        "BACKWARD_INPUT": "I",
        "BACKWARD_WEIGHT": "W"
    }
    for cell in filter(None, row):
        for part in getattr(cell, "sub_actions", None) or (cell, ):
            if part.computation_type.name in kinds:
                yield Action(kinds[part.computation_type.name],
                             part.stage_index, part.microbatch_index)


class TestEverySchedule(unittest.TestCase):

    def test_is_valid_for_any_numbers(self) -> None:
        for name in schedule_names():
            for ranks, microbatches, chunks in sizes(name):
                with self.subTest(name, p=ranks, m=microbatches, v=chunks):
                    check_schedule(made(name, ranks, microbatches, chunks),
                                   stages=ranks * chunks,
                                   microbatches=microbatches)

    def test_placement(self) -> None:
        for name in schedule_names():
            chunks = chunk_counts(name)[-1]
            placed = made(name, 3, 4, chunks).stage_rank
            expected = ((0, 1, 2, 2, 1, 0) if name in V_SHAPED else
                        (0, 1, 2) * chunks)
            self.assertEqual(placed, expected, name)

    def test_names(self) -> None:
        self.assertEqual(schedule_names(),
                         ("1f1b", "dualpipev", "gpipe", "interleaved1f1b",
                          "loopedbfs", "zbh1", "zbv"))


class TestAgainstTorch(unittest.TestCase):
    """Same work, and never slower where all actions take equal time."""

    def setUp(self) -> None:
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)

    def compare(self, name: str, schedule_class: Any, *,
                accepted: int) -> None:
        """`accepted`: of how many numbers torch makes a schedule."""
        count = 0
        for ranks, microbatches, chunks in sizes(name):
            other = torchs(schedule_class, ranks, microbatches, chunks)
            if other is None:
                continue
            count += 1
            own = made(name, ranks, microbatches, chunks)
            times = StageTimes.uniform(ranks * chunks)
            with self.subTest(name, p=ranks, m=microbatches, v=chunks):
                self.assertEqual(Counter(own.actions), Counter(other.actions))
                self.assertLessEqual(
                    simulate(own, times).makespan_s,
                    simulate(other, times).makespan_s)
        self.assertEqual(count, accepted)

    def test_gpipe(self) -> None:
        self.compare("gpipe", theirs.ScheduleGPipe, accepted=65)

    def test_interleaved1f1b(self) -> None:
        self.compare("interleaved1f1b",
                     theirs.ScheduleInterleaved1F1B,
                     accepted=153)

    def test_loopedbfs(self) -> None:
        self.compare("loopedbfs", theirs.ScheduleLoopedBFS, accepted=195)

    def test_zbh1(self) -> None:
        self.compare("zbh1",
                     theirs.ScheduleInterleavedZeroBubble,
                     accepted=153)

    def test_zbv(self) -> None:
        self.compare("zbv", theirs.ScheduleZBVZeroBubble, accepted=65)

    def test_dualpipev(self) -> None:
        self.compare("dualpipev", theirs.ScheduleDualPipeV, accepted=40)

    def test_1f1b(self) -> None:
        # The table that torch makes of 1F1B starts the last rank with its
        # second micro-batch (it doesn't run from it): not compared.
        for ranks in range(1, 6):
            for microbatches in range(ranks, 12):
                other = torchs(theirs.Schedule1F1B, ranks, microbatches, 1)
                assert other is not None
                own = made("1f1b", ranks, microbatches, 1)
                self.assertEqual(own.ranks[:-1], other.ranks[:-1])


class TestPublishedOrders(unittest.TestCase):

    def test_1f1b(self) -> None:
        check_golden(
            self, str(made("1f1b", 3, 4, 1)), """
            0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3
            1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3
            2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3
            """)

    def test_interleaved1f1b(self) -> None:
        check_golden(
            self, str(made("interleaved1f1b", 2, 4, 2)), """
            0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3
            1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3
            """)

    def test_zbh1(self) -> None:
        check_golden(
            self, str(made("zbh1", 3, 4, 1)), """
            0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
            1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
            2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3
            """)

    def test_zbv(self) -> None:
        check_golden(
            self, str(made("zbv", 2, 3, 2)), """
            0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2
            1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2
            """)

    def test_dualpipev(self) -> None:
        check_golden(
            self, str(made("dualpipev", 2, 4, 2)), """
            0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3 3B1 3F2 0B0 3B2 3F3 0B1 3B3 0I2 0W2 0I3 0W3
            1F0 2F0 1F1 2F1 1F2 2B0 2F2 1B0 1F3 2B1 2F3 1B1 2B2 1B2 2I3 1I3 2W3 1W3
            """)


class TestMakeSchedule(unittest.TestCase):

    def refused(self, message: str, name: str, **numbers: int) -> None:
        with self.assertRaisesRegex(ScheduleError, message):
            make_schedule(name, **{"ranks": 2, "microbatches": 2} | numbers)

    def test_numbers(self) -> None:
        self.refused("1f1b: ranks must be at least 1, got 0", "1f1b", ranks=0)
        self.refused("microbatches must be at least 1", "1f1b", microbatches=0)
        self.refused("chunks must be at least 1", "1f1b", chunks=-1)

    def test_chunks_that_a_schedule_is_not_for(self) -> None:
        self.refused(
            "1f1b has one stage on each rank .* for 2; use "
            "interleaved1f1b",
            "1f1b",
            chunks=2)
        self.refused("gpipe has one .* use loopedbfs", "gpipe", chunks=3)
        self.refused("zbv has two stages .* for 1; use chunks=2", "zbv")
        self.refused("dualpipev has two stages", "dualpipev", chunks=3)

    def test_unknown_name(self) -> None:
        self.refused("no schedule '1f1'; did you mean 1f1b?", "1f1")

    def test_name_is_taken_once(self) -> None:
        with self.assertRaisesRegex(ValueError, "'1f1b' is registered twice"):
            register("1f1b")(made)  # type: ignore[arg-type]

    def test_auto(self) -> None:
        schedule = made("auto", 3, 6, 1)
        check_schedule(schedule, stages=3, microbatches=6)
        times = StageTimes.uniform(3)
        self.assertLessEqual(
            simulate(schedule, times).makespan_s,
            simulate(made("zbh1", 3, 6, 1), times).makespan_s)

    def test_path(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "mine")
            Path(path).write_text("0F0 0B0\n1F0 1B0\n", encoding="utf-8")
            own = make_schedule(path, ranks=2, microbatches=1)
            self.assertEqual(str(own), "0F0 0B0\n1F0 1B0")
            self.refused("is for 2 ranks, and 3 were asked for",
                         path,
                         ranks=3,
                         microbatches=1)
            self.refused("for 1 micro-batches, and 2 were", path)
            self.refused("for 2 stages, and 4 were",
                         path,
                         microbatches=1,
                         chunks=2)


if __name__ == "__main__":
    unittest.main()
