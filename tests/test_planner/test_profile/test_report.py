"""The report: the fit, its errors, what is missing."""

from __future__ import annotations

from pathlib import Path
from unittest import TestCase

from planner.profile.measure import Outcome
from planner.profile.point import Groups, Point
from planner.profile.report import errors_by_kind, format_profile
from planner.profile.run import Profile
from planner.profile.store import Measured
from tests.test_planner.test_profile.made_up import cluster, measured

_ALONE = Point(kind="all_reduce",
               sizes=(4096, ),
               groups=Groups(shape=(2, 2), axis=1, alone=True))
_SLOW = Point(kind="add", sizes=(512, 512))
_MISSING = Point(kind="gelu", sizes=(8, 8))


def _profile(load: float = 0.0) -> Profile:
    spec = cluster(4)
    known = measured([Point(kind="copy", sizes=(64, 64)), _ALONE], spec)
    slow = measured([_SLOW], spec)[_SLOW]
    known[_SLOW] = Measured(median=2 * slow.median, count=3)
    refused = Point(kind="add", dtype="bfloat16", sizes=(8, 8))
    return Profile(cluster=spec,
                   outcome=Outcome(known=known,
                                   missing=(_MISSING, ),
                                   refused={refused: "no such kernel"}),
                   path=Path("local.yaml"),
                   load=load)


class TestReport(TestCase):

    def test_errors(self) -> None:
        errors = errors_by_kind(_profile())
        self.assertEqual(sorted(errors), [
            "add float32", "all_reduce of 2, one group alone", "copy float32"
        ])
        self.assertAlmostEqual(errors["add float32"][0], -0.5)
        self.assertAlmostEqual(errors["copy float32"][0], 0.0)

    def test_text(self) -> None:
        text = format_profile(_profile())
        for part in ("made-up: 4 x made up\n",
                     "products in float32: 150 GFLOPS\n",
                     "     1         50.0%                  0  add float32\n",
                     "add bfloat16 does not run here: no such kernel\n",
                     "1 points are missing", "written to local.yaml\n"):
            self.assertIn(part, text)
        self.assertNotIn("--refresh", text)

    def test_busy(self) -> None:
        self.assertIn("--refresh", format_profile(_profile(load=1e6)))
