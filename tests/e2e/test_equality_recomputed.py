"""Plans that recompute since nothing else fits, against one device."""

from __future__ import annotations

import unittest

from planner.constraints import Constraints, forbid
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning
from tests.e2e.equality import Case, Subject, check_subject
from tests.test_planner.test_planning.programs import slow_cluster


class Tight(Subject):
    """With a byte less than the lightest plan without it takes."""

    def layout(self, case: Case) -> ProgramLayout:
        cluster = slow_cluster(case.mesh.world_size, 1e9)
        kept = Planning(self.program,
                        cluster,
                        constraints=Constraints(forbid("recompute")),
                        memory_limit_bytes=1)
        least = min(c.memory.total for c in kept.candidates([case.mesh]))
        tight = Planning(self.program, cluster, memory_limit_bytes=least - 1)
        text = tight.plan_of(tight.best([case.mesh])[0]).to_yaml()
        layout = Plan.from_yaml(text).resolve(self.program)
        assert layout.recompute
        return layout


class TestRecomputed(unittest.TestCase):

    def _check(self, name: str) -> None:
        subject = Tight(name)
        for mesh in (MeshSpec(("dp", ), (2, )), MeshSpec(("x", ), (2, ))):
            with self.subTest(name, mesh=str(mesh)):
                check_subject(self, subject, Case(None, mesh))

    def test_gpt2(self) -> None:
        self._check("gpt2")

    def test_llama(self) -> None:
        self._check("llama")
