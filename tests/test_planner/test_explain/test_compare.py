"""Plans with stages are compared too, also with plans without."""

from __future__ import annotations

from unittest import TestCase

from planner.candidate import Candidate
from planner.explain.compare import compare_plans, format_comparison
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.recipes import ddp
from tests.test_planner.test_explain.pages import piped

_LINE = MeshSpec(("dp", ), (4, ))


class TestPipelines(TestCase):

    def _priced(self, candidate: Candidate) -> tuple[Plan, Candidate]:
        """As it is once it was saved and read."""
        planning = piped()[0]
        plan = Plan.from_yaml(planning.plan_of(candidate).to_yaml())
        return plan, planning.of_plan(plan)

    def test_two_schedules(self) -> None:
        first, second = map(self._priced, piped()[2])
        found = compare_plans(piped()[0], first, second)
        self.assertEqual(found["settings"],
                         {"pipeline schedule": ["zbh1", "1f1b"]})
        self.assertEqual((found["at_rest"], found["blocks"]), ({}, {}))
        self.assertGreater(found["delta_s"]["bubble"], 0)
        self.assertEqual(found["moves"], {
            "total_bytes": 0,
            "most_bytes": 0,
            "parameters": 0
        })
        self.assertIn("settings\n  pipeline schedule\n    - zbh1\n    + 1f1b",
                      format_comparison(found))

    def test_with_one_that_has_none(self) -> None:
        planning, chosen, _ = piped()
        other = planning.from_recipe(ddp(), _LINE)
        found = compare_plans(planning, self._priced(other),
                              self._priced(chosen))
        settings = found["settings"]
        self.assertEqual(settings["mesh"], ["dp=4", str(chosen.mesh)])
        self.assertEqual(settings["pipeline axis"], ["none", "pp"])
        # Every rank holds all of it before.
        self.assertEqual(found["moves"]["total_bytes"], 0)
        self.assertGreater(found["moves"]["parameters"], 0)
        text = format_comparison(found)
        self.assertRegex(text, r"\na step takes [+-].* \([+-].*%\) with the")
        for part in ("a device holds -", "\n  optimizer -",
                     "going over moves 0 B of 30 parameters"):
            self.assertIn(part, text)
