"""The table of predicted and measured times."""

from __future__ import annotations

from unittest import TestCase

from benchmarks.predictions import Row, format_rows, within
from tests.golden import check_golden


def _row(plan: str,
         predicted_s: float,
         measured_s: float,
         *,
         ranks: int = 2,
         pace: float = 1.0) -> Row:
    return Row(ranks=ranks,
               model="small",
               plan=plan,
               predicted_s=predicted_s,
               measured_s=measured_s,
               predicted_bytes=3 * 2**20,
               measured_bytes=4 * 2**20,
               pace=pace,
               paced_s=pace * predicted_s)


class TestTable(TestCase):

    def test_table(self) -> None:
        rows = [
            _row("searched", 0.010, 0.008, ranks=1),
            _row("ddp", 0.010, 0.0202, pace=1.5),
            _row("megatron", 0.012, 0.020, pace=1.5)
        ]
        check_golden(
            self, format_rows(rows), """
            ranks  model     plan             predicted    measured    error   memory    error
                1  small     searched          10.00 ms     8.00 ms   +25.0%     4.0 MiB   -25.0%
                2  small     ddp               10.00 ms    20.20 ms   -50.5%     4.0 MiB   -25.0%
                2  small     megatron          12.00 ms    20.00 ms   -40.0%     4.0 MiB   -25.0%
            time: median error 40.0%, largest 50.5% of 3 pairs
            time at the machine's pace: median error 25.0%, largest 25.7% of 3 pairs
            memory: median error 25.0%, largest 25.0% of 3 pairs
            small on 1: kernels took 1.00 of what they did when profiled
            small on 2: kernels took 1.50 of what they did when profiled
            small on 2: the predicted best is within 3% of the measured best
            predicted best within 3%: 1 of 1
            """)

    def test_within(self) -> None:
        rows = [_row("ddp", 1.0, 1.04), _row("fsdp", 2.0, 1.0)]
        self.assertEqual(within(rows), {"small on 2": False})
        self.assertEqual(within(rows, near=0.05), {"small on 2": True})
        self.assertEqual(within(rows[:1]), {})

    def test_one_program(self) -> None:
        """What is predicted alike runs alike: its mean time counts."""
        rows = [
            _row("searched", 1.0, 1.06),
            _row("ddp", 1.0, 1.0),
            _row("fsdp", 2.0, 1.01)
        ]
        self.assertEqual(within(rows), {"small on 2": True})
        self.assertEqual(within(rows[:2]), {})
