"""Gradients of a value with several readers are added."""

from __future__ import annotations

import dataclasses
import unittest

import torch
from torch import nn

from passes.lower import lower
from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cost.block_order import BlockOrder, Called, Moved
from planner.cost.calls import known_calls
from planner.cost.forks import add_fork_sums, fork_sums_s
from planner.cost.roofline import memory_time_s
from planner.cost.timeline import Streams, run
from planner.ir.layout import Placement, S
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
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


class _Sequences(nn.Module):
    """Two products take `made` whole, and a sum as it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.right = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.back = nn.Linear(2 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.nn.functional.gelu(x)
        return (self.back(self.left(made) * self.right(made)) + made).mean()


def _candidate(ranks: int) -> tuple[Planning, Candidate]:
    program = capture(_Forked(), (torch.zeros(_ROWS, _WIDTH), ))
    planning = Planning(program, slow_cluster(ranks, 1e9))
    return planning, planning.from_recipe(RECIPES["ddp"](),
                                          MeshSpec(("dp", ), (ranks, )))


def _held(layout: ProgramLayout, label: str,
          placement: Placement) -> ProgramLayout:
    """The same with one value held otherwise."""
    ((name, cls), ) = layout.classes.items()
    hubs = {**cls.hubs, label: (placement, )}
    cls = dataclasses.replace(cls, hubs=hubs)
    return dataclasses.replace(layout, classes={name: cls})


def _summed_shapes(program: Program,
                   layout: ProgramLayout) -> list[tuple[int, ...]]:
    """Of the additions in the backward that one rank runs, least first."""
    lowered = lower(program, layout, 0, device=torch.device("cpu"))
    return sorted(
        tuple(node.meta["val"].shape) for kernel in lowered.kernels.values()
        if kernel.train.backward is not None
        for node in kernel.train.backward.nodes
        if node.target is torch.ops.aten.add.Tensor)


class TestForks(unittest.TestCase):

    def _sums_s(self, ranks: int) -> dict[str, float]:
        planning, candidate = _candidate(ranks)
        (cls, ) = planning.program.classes.values()
        return fork_sums_s(cls,
                           known_calls(planning.program)[cls.name],
                           candidate.layout, planning.cluster.device)

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
        self.assertEqual(_summed_shapes(planning.program, candidate.layout),
                         [(_ROWS, _WIDTH)] * 2)

    def test_readers_of_one_layout_are_summed_in_it(self) -> None:
        sequences = torch.zeros(_ROWS, _ROWS, _WIDTH, requires_grad=True)
        program = capture(_Sequences(), (sequences, ))
        planning = Planning(program, slow_cluster(2, 1e9))
        recipe = RECIPES["megatron"](sequence_parallel=True)
        found = planning.from_recipe(recipe, MeshSpec(("tp", ), (2, )))
        layout = _held(found.layout, "gelu", S(1))
        (cls, ) = program.classes.values()
        device = planning.cluster.device
        calls = known_calls(program)[cls.name]
        sums_s = fork_sums_s(cls, calls, layout, device)
        whole = 3 * 4 * sequences.numel()
        self.assertAlmostEqual(
            sums_s["gelu"],
            memory_time_s(whole, device) + memory_time_s(whole / 2, device) +
            2 * device.launch_overhead_s)
        self.assertEqual(_summed_shapes(program, layout),
                         [(_ROWS, _ROWS // 2, _WIDTH), sequences.shape])

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
