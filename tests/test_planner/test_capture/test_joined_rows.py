"""Products of joined rows are taken of the value that has them apart."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from planner.ir.program import Program
from planner.ir.values import calls_of
from tests.test_planner.test_capture.eager import check_capture, doubled

LENGTH, BATCH, WIDTH = 6, 4, 8
EXPERTS = 5

Rows = Callable[[nn.Module, torch.Tensor], torch.Tensor]


class Of(nn.Module):
    """A function of two layers, a matrix, and a sequence-first input."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.matrix = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH))
        self.rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows(self, x)


class SelfAttention(nn.Module):

    def __init__(self, *, batch_first: bool, weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH,
                                               2,
                                               dropout=0.1,
                                               batch_first=batch_first)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=self.weights)[0]


def product_ranks(program: Program) -> list[int]:
    """How many dims the rows of every product have, with its features."""
    return [
        node.args[0].meta["spec"].ndim for cls in program.classes.values()
        for node in calls_of(cls.graph) if any(
            name in node.meta["label"] for name in ("linear", "matmul", "mm"))
    ]


class TestJoinedRows(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(LENGTH, BATCH, WIDTH)

    def capture(self, model: nn.Module) -> Program:
        return check_capture(self, *doubled(model, (self.x, )))

    def check(self, rows: Rows, *ranks: int) -> None:
        program = self.capture(Of(rows))
        self.assertEqual(product_ranks(program), list(ranks))

    def test_linear(self) -> None:
        self.check(
            lambda m, x: m.first(x.view(-1, WIDTH)).view(LENGTH, BATCH, -1), 3)

    def test_mm_and_addmm(self) -> None:
        self.check(
            lambda m, x: torch.mm(x.flatten(0, 1), m.matrix).view(
                LENGTH, BATCH, -1), 3)
        self.check(
            lambda m, x: torch.addmm(m.first.bias, x.flatten(0, 1), m.matrix).
            view(LENGTH, BATCH, -1), 3)

    def test_through_a_whole_network_with_a_residual(self) -> None:

        def network(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
            rows = x.reshape(LENGTH * BATCH, WIDTH)
            h = F.dropout(F.gelu(m.first(m.norm(rows))), 0.1)
            h = rows + 2 * m.second(h).softmax(-1)
            return h.view(LENGTH, BATCH, 2, -1).transpose(0, 1)

        self.check(network, 3, 3)

    def test_heads_that_are_joined_with_the_batch(self) -> None:
        self.check(
            lambda m, x: m.first(
                x.view(LENGTH, BATCH * 2, -1).tanh().view(
                    LENGTH * BATCH, WIDTH)).view(LENGTH, BATCH, -1), 3)

    def test_others_still_read_the_rows(self) -> None:

        def both(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
            rows = m.first(x.flatten(0, 1))
            return rows.view(LENGTH, BATCH, -1).sum() + rows.cumsum(0).sum()

        self.check(both, 3)

    def test_rows_that_stay_joined_are_left(self) -> None:
        self.check(lambda m, x: m.first(x.flatten(0, 1)), 2)
        self.check(
            lambda m, x: m.first(x.flatten(0, 1)).cumsum(0).view(
                LENGTH, BATCH, -1), 2)

    def test_what_is_of_the_rows_is_left(self) -> None:
        """Something is added to each row, or along them."""
        table = torch.randn(LENGTH * BATCH, 1).double()
        self.check(
            lambda m, x:
            (m.first(x.flatten(0, 1)) + table).view(LENGTH, BATCH, -1), 2)
        self.check(
            lambda m, x: m.first(x.flatten(0, 1)).softmax(0).view(
                LENGTH, BATCH, -1), 2)
        self.check(
            lambda m, x: m.first(x.flatten(0, 1)).view(3, -1, 2 * WIDTH), 2)

    def test_copies_for_experts_are_a_dim(self) -> None:

        def mixture(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
            rows = x.flatten(0, 1)
            scores = m.first(rows)[:, :EXPERTS].sigmoid()
            copies = rows.repeat(EXPERTS, 1) * scores.t().reshape(-1, 1)
            made = torch.bmm(copies.view(EXPERTS, -1, WIDTH),
                             m.matrix.expand(EXPERTS, -1, -1))
            joined = made.view(-1, 2 * WIDTH)
            return joined.reshape(EXPERTS, -1, 2 * WIDTH).sum(0)

        program = self.capture(Of(mixture))
        rows = {
            tuple(node.meta["spec"].shape)[0]
            for cls in program.classes.values()
            for node in calls_of(cls.graph)
            if hasattr(node.meta["spec"], "shape") and node.meta["spec"].ndim
        }
        self.assertNotIn(EXPERTS * LENGTH * BATCH, rows)

    def test_other_repetitions_are_left(self) -> None:
        for times in ((2, 3), (2, 1, 1)):
            with self.subTest(times=times):
                self.capture(
                    Of(lambda m, x: x.flatten(0, 1).repeat(*times).view(
                        2, -1, WIDTH)))

    def test_attention_of_torch(self) -> None:
        for batch_first in (False, True):
            for weights in (False, True):
                with self.subTest(batch_first=batch_first, weights=weights):
                    program = self.capture(
                        SelfAttention(batch_first=batch_first,
                                      weights=weights))
                    self.assertEqual(set(product_ranks(program)), {3})


if __name__ == "__main__":
    unittest.main()
