"""Views are folded, and values stay what they are."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from passes.fold_views import fold_views


class TestFoldViews(unittest.TestCase):

    def folded(self, function: Callable[..., torch.Tensor],
               x: torch.Tensor) -> list[str]:
        """The calls that are left of a function; values are compared."""
        graph = make_fx(function)(x).graph
        for node in graph.nodes:
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        module = fx.GraphModule(torch.nn.Module(), fold_views(graph))
        found, expected = module(x), function(x)
        self.assertEqual(found.shape, expected.shape)
        self.assertEqual(found.stride(), expected.stride())
        self.assertTrue(torch.equal(found, expected))
        return [
            str(n.target) for n in module.graph.nodes
            if n.op == "call_function"
        ]

    def test_transposes(self) -> None:
        x = torch.randn(3, 4)
        self.assertEqual(self.folded(lambda a: (a + 1).t().t() * 2, x),
                         ["aten.add.Tensor", "aten.mul.Tensor"])
        cube = torch.randn(2, 3, 4)
        self.assertEqual(
            self.folded(lambda a: a.transpose(1, 2).transpose(2, 1) * 2, cube),
            ["aten.mul.Tensor"])
        self.assertEqual(
            len(
                self.folded(lambda a: a.transpose(1, 2).transpose(0, 1) * 2,
                            cube)), 3)

    def test_reshapes(self) -> None:
        x = torch.randn(4, 6)
        self.assertEqual(
            self.folded(lambda a: a.view(24).view(2, 12).view(3, 8), x),
            ["aten.reshape.default"])
        self.assertEqual(self.folded(lambda a: (a + 1).view(4, 6) * 2, x),
                         ["aten.add.Tensor", "aten.mul.Tensor"])

    def test_shared_reshape(self) -> None:
        """A reshape that may copy is not done once for each reader."""

        def function(a: torch.Tensor) -> torch.Tensor:
            shared = torch.ops.aten.reshape.default(a + 1, [24])
            halves = torch.ops.aten.reshape.default(shared, [2, 12])
            return halves.sum() + shared.sum()

        self.assertEqual(
            self.folded(function,
                        torch.randn(4, 6)).count("aten.reshape.default"), 2)

    def test_sum_keeps_no_dim(self) -> None:
        x = torch.randn(4, 6)
        self.assertEqual(
            self.folded(lambda a: a.sum([0], keepdim=True).view(6), x),
            ["aten.sum.dim_IntList"])
        self.assertEqual(
            len(self.folded(lambda a: a.sum([0], keepdim=True).view(2, 3), x)),
            2)


if __name__ == "__main__":
    unittest.main()
