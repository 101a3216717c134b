"""The moments of a step, added up by hand."""

from __future__ import annotations

import unittest

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from planner.capture.capture import capture
from planner.cost.calls import known_calls
from planner.cost.memory_estimate import MemoryEstimate
from planner.cost.peak import (BlockPeaks, backward_peak, forward_peak,
                               step_peak)
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Candidate, Planning
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import slow_cluster, zoo

_NONE: frozenset[str] = frozenset()


def _peak(*blocks: BlockPeaks,
          packed: frozenset[str] = _NONE,
          finished: int = 0,
          unit_bytes: int = 1) -> int:
    return step_peak(blocks,
                     base=1000,
                     packed=packed,
                     finished=finished,
                     unit_bytes=unit_bytes).total


class _Residual(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.front, self.first, self.second = (nn.Linear(16, 16, bias=False)
                                               for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.front(x)
        x = x + self.first(x)
        return x + self.second(x)


class _Attention(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.front, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys, values = (y.unflatten(-1, (2, 8)).transpose(1, 2)
                                 for y in self.front(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(queries, keys, values)
        return self.out(x.transpose(1, 2).flatten(2))


def _laid_out(program: Program) -> Candidate:
    return Planning(program,
                    slow_cluster(2,
                                 1e9)).from_recipe(RECIPES["ddp"](),
                                                   MeshSpec(("dp", ), (1, )))


class TestMoments(unittest.TestCase):

    def test_saved_values_go_while_gradients_come(self) -> None:
        block = BlockPeaks(kept=10, forward=1, backward=7, gradients=4)
        # Last block: 3 kept, 7. Then 2 kept, 4 of gradients, 7; then ...
        self.assertEqual(_peak(block, block, block), 1000 + 30 + 7)
        heavy = BlockPeaks(kept=1, forward=0, backward=10, gradients=10)
        self.assertEqual(_peak(heavy, heavy, heavy), 1000 + 1 + 20 + 10)

    def test_packing_copies(self) -> None:
        block = BlockPeaks(kept=0, forward=0, backward=10, gradients=10)
        self.assertEqual(_peak(block, block), 1020)
        self.assertEqual(
            _peak(block, block, packed=frozenset({"all_reduce"}), finished=20),
            1040)
        self.assertEqual(
            _peak(block,
                  block,
                  packed=frozenset({"reduce_scatter"}),
                  finished=10), 1050)

    def test_gathered_parameters(self) -> None:
        kept = BlockPeaks(kept=0, forward=0, backward=0, gathered=5)
        again = BlockPeaks(kept=0, forward=0, backward=0, regathered=5)
        # All are held, and the last one's buffer; or one unit at a time.
        self.assertEqual(_peak(kept, kept, kept), 1000 + 10 + 10)
        self.assertEqual(_peak(again, again, again), 1010)
        self.assertEqual(_peak(again, again, again, unit_bytes=15), 1030)

    def test_tables_go_with_the_forward(self) -> None:
        """Of the first block's parameters 30 are read in no backward."""
        first = BlockPeaks(kept=10,
                           forward=0,
                           backward=0,
                           gathered=50,
                           unread=30)
        last = BlockPeaks(kept=5, forward=0, backward=90)
        self.assertEqual(_peak(first, last), 1000 + 10 + 5 + 20 + 90)

    def test_gathered_parameters_are_freed_block_by_block(self) -> None:
        """When gradients are packed, the last whole parameter is gone."""
        block = BlockPeaks(kept=0,
                           forward=0,
                           backward=5,
                           gathered=5,
                           gradients=5)
        packed = frozenset({"reduce_scatter"})
        self.assertEqual(_peak(block, block, block, packed=packed, finished=3),
                         1000 + 33)


class TestKinds(unittest.TestCase):

    def test_add_up_to_the_total_at_least(self) -> None:
        planning = Planning(zoo("llama"), slow_cluster(4, 1e9))
        for name in ("ddp", "fsdp", "zero1"):
            memory = planning.from_recipe(RECIPES[name](),
                                          MeshSpec(("dp", ), (4, ))).memory
            self.assertGreaterEqual(sum(memory.by_kind().values()),
                                    memory.total)

    def test_of_a_smaller_batch(self) -> None:
        """Whole gradients and their packed copy stay as they are."""
        block = BlockPeaks(kept=80, forward=8, backward=16, gradients=10)
        found = step_peak([block, block],
                          base=1000 + 4,
                          grown=4,
                          packed=frozenset({"reduce_scatter"}),
                          finished=5,
                          unit_bytes=1)
        self.assertEqual(found.total, 1004 + 160 + 16)
        self.assertEqual((found.steady, found.gradients), (1000 + 45, 45))
        memory = MemoryEstimate(parameters=400,
                                gradients=5,
                                optimizer=600,
                                saved=160,
                                gathered=0,
                                transient=8,
                                outputs=4,
                                peak=found)
        self.assertEqual(memory.of_share(1), found.total)
        self.assertEqual(memory.of_share(4), 1045 + 172 // 4)


class TestLiveness(unittest.TestCase):

    def test_two_linear_layers(self) -> None:
        """64 rows of 16 numbers are 4096 bytes, a weight 1024."""
        layers = [nn.Linear(16, 16, bias=False) for _ in range(2)]
        program = capture(nn.Sequential(*layers),
                          (torch.zeros(64, 16), torch.zeros(64, 16)),
                          loss_fn=lambda y, target: (y - target).sum())
        candidate = _laid_out(program)
        ((name, calls), ) = known_calls(program).items()
        layout = candidate.layout.classes[name]
        # Two outputs at once; the difference comes when the first has gone.
        self.assertEqual(forward_peak(calls, layout, (1, ), set()), 2 * 4096)
        kept = {calls[0].outputs[0], calls[1].outputs[0]}
        self.assertEqual(forward_peak(calls, layout, (1, ), kept), 4096 + 4)
        peak, parameters = backward_peak(calls, layout, (1, ))
        self.assertEqual(parameters, 2 * 1024)
        # Of the second layer alone; that of the sum is gone by then.
        self.assertEqual(peak, 2 * 4096 + 1024)
        self.assertLess(candidate.memory.total, candidate.memory.kinds)

    def test_gradients_of_residual_layers(self) -> None:
        """What is given for the result, where it is held; the sum of the
        second layer, and of the first both that are added up and the sum."""
        program = capture(_Residual(),
                          (torch.zeros(64, 16), torch.zeros(64, 16)),
                          loss_fn=lambda y, target: (y - target).sum())
        ((name, calls), ) = known_calls(program).items()
        layout = _laid_out(program).layout.classes[name]
        result = calls[4].outputs[0]
        self.assertEqual(calls[4].label, "add.1")
        peaks = [
            backward_peak(calls, layout, (1, ), held)
            for held in ((), (result, ))
        ]
        self.assertEqual(peaks, [(3 * 4096 + 1024, 3 * 1024),
                                 (4 * 4096 + 1024, 3 * 1024)])

    def test_a_value_and_its_view_are_kept_once(self) -> None:
        """Of attention on 2 x 2 x 8 rows of 8 numbers: three operands, its
        result, which the product reads too, and a number for each row."""
        program = capture(_Attention(),
                          (torch.zeros(2, 8, 16), torch.zeros(2, 8, 16)),
                          loss_fn=lambda y, target: (y - target).sum())
        self.assertEqual(_laid_out(program).memory.saved, 4 * 1024 + 32 * 4)


if __name__ == "__main__":
    unittest.main()
