"""Plans that the search finds where dividing pays, against one device."""

from __future__ import annotations

import unittest

from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning
from planner.search.policy import Policy
from tests.e2e.equality import Case, Subject, check_subject
from tests.test_planner.test_planning.programs import slow_cluster

_LINE = MeshSpec(("x", ), (4, ))
_GRID = MeshSpec(("x", "y"), (2, 2))


class Searched(Subject):
    """Layouts for devices that are slow beside their links."""

    memory_price: float = 0.0
    bandwidth_bytes_per_s: float = 1e9

    def layout(self, case: Case) -> ProgramLayout:
        planning = Planning(self.program,
                            slow_cluster(4, self.bandwidth_bytes_per_s))
        found = planning.candidate(case.mesh,
                                   [Policy()] * len(case.mesh.sizes),
                                   memory_price_s_per_byte=self.memory_price)
        text = planning.plan_of(found).to_yaml()
        return Plan.from_yaml(text).resolve(self.program)


class TestSearched(unittest.TestCase):
    """What no recipe says: any dim of any operator, on any axis."""

    def _check(self, name: str) -> None:
        subject = Searched(name)
        for mesh in (_LINE, _GRID):
            for bandwidth, memory_price in ((1e8, 0.0), (1e10, 0.0), (1e9,
                                                                      1e-7)):
                subject.bandwidth_bytes_per_s = bandwidth
                subject.memory_price = memory_price
                with self.subTest(name,
                                  mesh=str(mesh),
                                  bandwidth=bandwidth,
                                  memory_price=memory_price):
                    check_subject(self, subject, Case(None, mesh))

    def test_gpt2(self) -> None:
        self._check("gpt2")

    def test_llama(self) -> None:
        self._check("llama")
