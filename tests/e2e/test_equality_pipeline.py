"""Pipelines of small models train as one device does."""

from __future__ import annotations

import unittest
from typing import Any

from planner.recipes import RECIPES
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_pipeline
from tests.test_planner.test_pipeline.models import (Example, plain, row,
                                                     skips, tagger)

_PIPELINE = RECIPES["pipeline"]


class TestSchedules(unittest.TestCase):
    """Every schedule gives the same numbers."""

    def test_row_of_layers(self) -> None:
        subject = Subject(row)
        for name, chunks in {
                "gpipe": 1,
                "1f1b": 1,
                "interleaved1f1b": 2,
                "loopedbfs": 2,
                "zbh1": 1,
                "zbv": 2,
                "dualpipev": 2,
                "auto": 1,
        }.items():
            with self.subTest(schedule=name):
                plan = _PIPELINE(name, microbatches=4, chunks=chunks)
                check_pipeline(self, subject, plan, pp=2)


class TestModels(unittest.TestCase):
    """What is hard to cut."""

    def check(self,
              example: Any,
              *,
              schedule: str = "1f1b",
              **axes: int) -> None:
        check_pipeline(self, Subject(example),
                       _PIPELINE(schedule, microbatches=2), **axes)

    def test_one_block_is_cut_inside(self) -> None:
        self.check(plain, pp=2)

    def test_skips_go_over_several_stages(self) -> None:
        self.check(skips, pp=4)

    def test_ignored_tokens_lie_unevenly(self) -> None:
        self.check(tagger, pp=2, dp=2)

    def test_hand_written_cut_inside_a_block(self) -> None:
        example: Example = skips()
        plan = _PIPELINE("zbh1",
                         microbatches=2,
                         cuts=("glue.0:up2.conv_transpose2d", ))
        check_pipeline(self, Subject(lambda: example), plan, pp=2)


if __name__ == "__main__":
    unittest.main()
