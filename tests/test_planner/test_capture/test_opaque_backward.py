"""Modules that run as they are and whose backward runs their code again."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_opaque import opaque_nodes


class Again(torch.autograd.Function):
    """Computes its layer again and adds to the parameters' gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Reversible) -> torch.Tensor:
        ctx.layer = layer
        with torch.no_grad():
            y = layer.block(x, first=True)
        ctx.save_for_backward(x.detach())
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        x = ctx.saved_tensors[0].clone().requires_grad_()
        with torch.enable_grad():
            y = ctx.layer.block(x, first=False)
        torch.autograd.backward(y, grads)
        assert x.grad is not None
        return x.grad, None


class Reversible(nn.Module):
    """Notes in the forward what the backward needs, and branches."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.sign: int | None = None

    def block(self, x: torch.Tensor, *, first: bool) -> torch.Tensor:
        y = self.linear(x)
        if first:
            self.sign = 1 if float(y.detach().sum()) > 0 else -1
        assert self.sign is not None
        y = y * self.sign
        if not first:
            self.sign = None
        return y.sin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = Again.apply(x, self)
        return y


class Checkpointed(Reversible):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.detach().sum()) > 0:
            x = x.cos()
        y: torch.Tensor = checkpoint(self.linear, x, use_reentrant=True)
        return y.relu()


class Stacked(nn.Module):

    def __init__(self, kind: type[Reversible]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(kind() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x.square().sum()


class TestBackward(unittest.TestCase):

    def check(self, kind: type[Reversible]) -> None:
        torch.manual_seed(0)
        program = check_capture(self,
                                Stacked(kind).double(),
                                (torch.randn(3, 4).double(), ))
        self.assertEqual(len(opaque_nodes(program)), 1)
        # The first trace fails in a linear layer, of which there is another.
        self.assertIn("layers.0 and 1 like it can't", program.notes[-1])

    def test_reads_what_the_forward_left(self) -> None:
        self.check(Reversible)

    def test_checkpointed(self) -> None:
        self.check(Checkpointed)


if __name__ == "__main__":
    unittest.main()
