"""What is said of plans on several links."""

from __future__ import annotations

from unittest import TestCase

from benchmarks.predictions import Row
from benchmarks.shaped_links import Shaped, format_links
from tests.golden import check_golden


def _row(plan: str, predicted_s: float, measured_s: float) -> Row:
    return Row(ranks=2,
               model="large",
               plan=plan,
               predicted_s=predicted_s,
               measured_s=measured_s)


class TestTable(TestCase):

    def test_table(self) -> None:
        found = [
            Shaped(link="0:0",
                   rows=(_row("pipeline", 0.4, 0.35), _row("ddp", 0.3, 0.34))),
            Shaped(link="50mbit:1ms",
                   rows=(_row("pipeline", 1.0, 1.2), _row("ddp", 6.0, 0.9)))
        ]
        check_golden(
            self, format_links(found), """
            0:0: rate and delay of each host's link
              ddp                  predicted    300.0 ms   measured    340.0 ms
              pipeline             predicted    400.0 ms   measured    350.0 ms
              predicted best: ddp, measured best: ddp
            50mbit:1ms: rate and delay of each host's link
              pipeline             predicted   1000.0 ms   measured   1200.0 ms
              ddp                  predicted   6000.0 ms   measured    900.0 ms
              predicted best: pipeline, measured best: ddp
            the predicted best is within 10% of the measured best on 1 of 2 links; 2 different plans are predicted best
            """)
