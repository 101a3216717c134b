"""Products that are cut into parts become one call; others stay."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from planner.ir.program import Program
from planner.ir.values import call_of, calls_of
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_capture.test_bags import labels

BATCH, LENGTH, WIDTH, HEADS = 2, 6, 8, 4

Cut = Callable[[torch.Tensor], Any]


class Projected(nn.Module):
    """A fused projection and a function of the product."""

    def __init__(self, cut: Cut, features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, features, bias=bias)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> Any:
        return self.cut(self.linear(x))


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2).tanh()


def all_heads(*parts: torch.Tensor) -> list[torch.Tensor]:
    return [heads(p) for p in parts]


def sizes_of(program: Program) -> list[list[int]]:
    """The parts of every ``split_linear``."""
    return [
        call_of(node).args[3] for cls in program.classes.values()
        for node in calls_of(cls.graph) if "split_linear" in node.meta["label"]
    ]


class TestProjections(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(BATCH, LENGTH, WIDTH)

    def capture(self, model: nn.Module) -> Program:
        return check_capture(self, *doubled(model, (self.x, )))

    def opened(self, cut: Cut, *sizes: int, bias: bool = True) -> set[str]:
        program = self.capture(Projected(cut, sum(sizes), bias=bias))
        self.assertEqual(sizes_of(program), [list(sizes)])
        found = labels(program)
        self.assertNotIn("linear", found)
        return found

    def left(self, cut: Cut, features: int) -> None:
        program = self.capture(Projected(cut, features))
        self.assertEqual(sizes_of(program), [])

    def test_split_and_chunk(self) -> None:
        self.opened(lambda y: all_heads(*y.split(8, -1)), 8, 8, 8)
        self.opened(lambda y: all_heads(*y.split([16, 8, 8], 2)), 16, 8, 8)
        self.opened(lambda y: all_heads(*y.chunk(2, -1)), 8, 8, bias=False)

    def test_slices(self) -> None:
        self.opened(
            lambda y: all_heads(y[..., :16], y[..., 16:24], y[..., -8:]), 16,
            8, 8)

    def test_what_nobody_reads_is_a_part_too(self) -> None:
        self.opened(lambda y: heads(y[..., 8:16]), 8, 8, 8)

    def test_a_part_that_is_read_twice(self) -> None:
        self.opened(
            lambda y: (heads(y[..., :8]), y[..., :8].sum(), y[..., 8:]), 8, 8)

    def test_parts_before_heads(self) -> None:

        def cut(y: torch.Tensor) -> Any:
            y = y.view(BATCH, LENGTH, 3, HEADS, 2)
            return [p.tanh() for p in y.permute(2, 0, 3, 1, 4).unbind(0)]

        found = self.opened(cut, 8, 8, 8)
        self.assertNotIn("unbind", found)

    def test_selected_parts(self) -> None:

        def cut(y: torch.Tensor) -> Any:
            y = y.unflatten(-1, (2, WIDTH)).unsqueeze(0).transpose(0, -2)
            y = y.squeeze(-2).contiguous()
            return y[0].view(-1, WIDTH), y[1].tanh()

        self.opened(cut, WIDTH, WIDTH)

    def test_heads_before_parts_stay(self) -> None:
        self.left(
            lambda y:
            [p.tanh() for p in y.view(BATCH, LENGTH, HEADS, 6).chunk(3, -1)],
            24)

    def test_what_is_read_whole_stays(self) -> None:
        self.left(lambda y: (heads(y[..., :8]), y.sum()), 16)
        self.left(lambda y: (y, heads(y[..., :8])), 16)

    def test_overlapping_and_odd_parts_stay(self) -> None:
        self.left(lambda y: (y[..., :9].tanh(), y[..., 7:].tanh()), 16)
        self.left(lambda y: (y[..., :7].tanh(), y[..., 7:].tanh()), 16)
        self.left(lambda y: y[..., ::2].tanh(), 16)
        self.left(lambda y: y[..., :16].tanh(), 16)

    def test_other_dims_stay(self) -> None:
        self.left(lambda y: [p.tanh() for p in y.chunk(2, 1)], 16)

    def test_parts_that_are_returned(self) -> None:
        self.opened(lambda y: y.split(8, -1), 8, 8)

    def test_products_of_flat_rows(self) -> None:

        class Flat(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.randn(WIDTH, 24))
                self.bias = nn.Parameter(torch.randn(24))

            def forward(self, x: torch.Tensor) -> Any:
                y = torch.addmm(self.bias, x.view(-1, WIDTH), self.weight)
                y = y.view(BATCH, LENGTH, 24)
                z = torch.matmul(x, self.weight)
                return all_heads(*y.split(8, 2)), all_heads(*z.chunk(3, -1))

        self.assertEqual(sizes_of(self.capture(Flat())), [[8] * 3] * 2)

    def test_products_of_activations_stay(self) -> None:

        class Product(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(WIDTH, WIDTH)

            def forward(self, x: torch.Tensor) -> Any:
                x = self.linear(x)
                return torch.matmul(x, x[0].t()).split(3, -1)

        self.assertEqual(sizes_of(self.capture(Product())), [])


class TestAttention(unittest.TestCase):
    """Torch's attention joins batch and heads; that is parted too."""

    def test_encoder_layer(self) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH,
                                           HEADS,
                                           16,
                                           dropout=0.0,
                                           batch_first=True)
        inputs = (torch.randn(BATCH, LENGTH, WIDTH), )
        program = check_capture(self, *doubled(layer.train(), inputs))
        self.assertEqual(sizes_of(program), [[WIDTH] * 3])
        shapes = [
            tuple(node.meta["spec"].shape) for cls in program.classes.values()
            for node in calls_of(cls.graph) if "view" in node.meta["label"]
        ]
        self.assertNotIn((LENGTH, BATCH * HEADS, WIDTH // HEADS), shapes)


if __name__ == "__main__":
    unittest.main()
