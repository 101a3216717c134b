"""Rows under a mask that are changed and put back."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from tests.test_planner.test_capture.eager import check_capture, doubled


class Deep(nn.Module):
    """Adds features of images to the rows of images, after each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor,
                images: torch.Tensor) -> torch.Tensor:
        mask = tokens == 7
        for layer in self.layers:
            x = layer(x).clone()
            x[mask, :] = 2 * (x[mask, :] + layer(images))
        return x.square().sum()


class TestMaskedRows(unittest.TestCase):

    def test_rows_of_images(self) -> None:
        tokens = torch.tensor([[1, 7, 2], [7, 7, 3]])
        model, inputs = doubled(
            Deep(), (torch.randn(2, 3, 4), tokens, torch.randn(3, 4)))
        program = check_capture(self, model, inputs)
        self.assertEqual(program.notes, ())
        targets = [n.target for c in program.classes.values() for n in c.calls]
        self.assertNotIn(torch.ops.aten.index.Tensor, targets)


if __name__ == "__main__":
    unittest.main()
