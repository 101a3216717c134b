"""Gradients of a value with several readers are added."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from passes.lower import lower
from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cost.block_order import BlockOrder, Called, Moved
from planner.cost.forks import add_fork_sums, fork_sums_s
from planner.cost.roofline import memory_time_s
from planner.cost.timeline import Streams, run
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import slow_cluster

_ROWS, _WIDTH = 16, 8


class _Forked(nn.Module):
    """`made` has three readers, `x` needs no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.made = nn.Linear(_WIDTH, _WIDTH)
        self.left = nn.Linear(_WIDTH, _WIDTH)
        self.right = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.made(x) + x
        mean = (self.left(made) * self.right(made) + made).mean()
        return mean + x.sum()


def _candidate(ranks: int) -> tuple[Planning, Candidate]:
    program = capture(_Forked(), (torch.zeros(_ROWS, _WIDTH), ))
    planning = Planning(program, slow_cluster(ranks, 1e9))
    return planning, planning.from_recipe(RECIPES["ddp"](),
                                          MeshSpec(("dp", ), (ranks, )))


class TestForks(unittest.TestCase):

    def _sums_s(self, ranks: int) -> dict[str, float]:
        planning, candidate = _candidate(ranks)
        (cls, ) = planning.program.classes.values()
        return fork_sums_s(cls, candidate.layout, planning.cluster.device)

    def test_an_addition_for_each_reader_but_the_first(self) -> None:
        device = slow_cluster(2, 1e9).device
        for ranks in (1, 2):
            (each_s, ) = self._sums_s(ranks).values()
            # Two gradients are read and one is written, of this rank's rows.
            size = 3 * 4 * _ROWS * _WIDTH / ranks
            self.assertAlmostEqual(
                each_s,
                2 * (memory_time_s(size, device) + device.launch_overhead_s))

    def test_the_backward_has_as_many(self) -> None:
        planning, candidate = _candidate(1)
        lowered = lower(planning.program,
                        candidate.layout,
                        0,
                        device=torch.device("cpu"))
        added = [
            node for kernel in lowered.kernels.values()
            if kernel.train.backward is not None
            for node in kernel.train.backward.nodes
            if node.target is torch.ops.aten.add.Tensor
        ]
        self.assertEqual(len(added), 2)

    def test_they_are_run_before_what_made_the_value(self) -> None:
        planning, _ = _candidate(1)
        (cls, ) = planning.program.classes.values()
        taken = cls.placeholders[0].meta["label"]
        call = Called(reads=frozenset([taken]),
                      makes=frozenset(["made"]),
                      forward_s=1.0,
                      backward_s=2.0)
        order = BlockOrder(events=[call])
        add_fork_sums(order, cls, {taken: 0.25, "made": 0.5})
        self.assertEqual(order.events, [
            Moved(value=taken, made=False, backward_s=0.25), call,
            Moved(value="made", made=False, backward_s=0.5)
        ])
        streams = Streams()
        self.assertEqual(run(order.backward(), streams).time_s, 2.75)
        self.assertEqual(run(order.forward(), streams).time_s, 1.0)


if __name__ == "__main__":
    unittest.main()
