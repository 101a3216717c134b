"""What ranks of a pipeline wait for between two steps."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Sequence

import torch
from torch import nn

from planner.capture.capture import capture
from planner.cluster import axis_link
from planner.cluster.axis import AxisInfo
from planner.cost.collective import collective_time_s
from planner.ir.mesh import MeshSpec
from planner.pipeline.build import Pipelined, pipelined
from planner.pipeline.closing import closing_s
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.schedule.named import make_schedule
from planner.schedule.simulation import Simulation, simulate
from planner.schedule.times import StageTimes
from tests.test_planner.test_planning.programs import slow_cluster

_WIDTH = 64
_TIED_BYTES = 4.0 * _WIDTH**2
_LAST_STARTS_S = 1.0
"""0F0 0F1 0B0 0B1 end at 9, 1F0 1B0 1F1 1B1 run from 1 to 7."""
_NOTHING = (0.0, 0.0)


class _Row(nn.Module):

    def __init__(self, *, is_tied: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(4))
        if is_tied:
            self.layers[3].weight = self.layers[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x.square().mean()


@functools.cache
def _pipelined(*, is_tied: bool) -> Pipelined:
    program = capture(_Row(is_tied=is_tied), (torch.zeros(8, _WIDTH), ))
    candidate = Planning(program, slow_cluster(2, 1e9)).from_recipe(
        RECIPES["pipeline"](schedule="1f1b", microbatches=2),
        MeshSpec(("pp", ), (2, )))
    assert candidate.pipeline is not None
    return pipelined(program, candidate.layout, candidate.pipeline)


@functools.cache
def _simulation() -> Simulation:
    return simulate(make_schedule("1f1b", ranks=2, microbatches=2),
                    StageTimes.in_parts([1.0, 1.0], [1.0, 1.0], [1.0, 1.0]))


def _link(bandwidth_bytes_per_s: float = 1e9) -> AxisInfo:
    return axis_link(slow_cluster(2, bandwidth_bytes_per_s), (2, ), 0)


def _closing(*,
             is_tied: bool = False,
             begin_s: Sequence[float] = _NOTHING,
             finish_s: Sequence[float] = _NOTHING,
             link: AxisInfo | None = None) -> float:
    return closing_s(_pipelined(is_tied=is_tied), _simulation(), begin_s,
                     finish_s, link or _link())


def _tied_s(link: AxisInfo) -> float:
    return collective_time_s("send", _TIED_BYTES, link)


class TestClosing(unittest.TestCase):

    def test_a_loss_is_there_before_the_first_stage_is_done(self) -> None:
        self.assertEqual(_closing(), 0.0)

    def test_a_loss_of_the_rank_that_is_done_last_is_waited_for(self) -> None:
        self.assertAlmostEqual(_closing(finish_s=(0.0, 10.0)),
                               collective_time_s("broadcast", 4.0, _link()))

    def test_tied_gradients_arrive_while_a_rank_has_no_work(self) -> None:
        self.assertLess(_tied_s(_link()), _LAST_STARTS_S)
        self.assertEqual(_closing(is_tied=True), 0.0)

    def test_tied_gradients_that_take_longer_are_waited_for(self) -> None:
        """The last rank has the first one's when its step could have begun
        for as long."""
        slow = _link(_TIED_BYTES / 5.0)
        self.assertGreater(_tied_s(slow), 5.0)
        self.assertAlmostEqual(_closing(is_tied=True, link=slow),
                               _tied_s(slow) - _LAST_STARTS_S)

    def test_ranks_that_gather_first_need_their_gradients_sooner(self) -> None:
        self.assertAlmostEqual(
            _closing(is_tied=True, begin_s=(0.0, _LAST_STARTS_S)),
            _tied_s(_link()))

    def test_ranks_that_are_done_together_wait_for_both(self) -> None:
        """The first one gets the loss and sends what is tied only then."""
        link = _link()
        loss_s = collective_time_s("broadcast", 4.0, link)
        self.assertAlmostEqual(
            _closing(is_tied=True,
                     begin_s=(0.0, _LAST_STARTS_S),
                     finish_s=(0.0, 2.0),
                     link=link), loss_s + _tied_s(link))


if __name__ == "__main__":
    unittest.main()
