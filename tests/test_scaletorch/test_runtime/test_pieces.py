"""A graph is compiled around calls of unknown size."""

from __future__ import annotations

import operator
import unittest
from unittest import mock

import torch
from torch import fx

from scaletorch.runtime import pieces


def kept(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As many numbers as are positive, and all."""
    return x[x > 0], x


def is_kept(node: fx.Node) -> bool:
    return node.target is kept


def traced() -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    twice = graph.call_function(torch.mul, (x, 2))
    pair = graph.call_function(kept, (twice, ))
    all_of_it = graph.call_function(operator.getitem, (pair, 1))
    after = graph.call_function(torch.add, (all_of_it, twice))
    some = graph.call_function(operator.getitem, (pair, 0))
    graph.output((after, some))
    return fx.GraphModule(torch.nn.Module(), graph)


class TestPieces(unittest.TestCase):

    def test_only_the_rest_is_compiled(self) -> None:
        compiled: list[list[object]] = []

        def record(module: fx.GraphModule, **options: bool) -> fx.GraphModule:
            self.assertEqual(options, {"fullgraph": True, "dynamic": False})
            compiled.append([
                n.target for n in module.graph.nodes if n.op == "call_function"
            ])
            return module

        with mock.patch.object(torch, "compile", record):
            run = pieces.compiled_pieces(traced(), is_kept)
        self.assertEqual(compiled, [[torch.mul], [torch.add]])
        for positive in (1, 3):
            x = torch.arange(4.0) - (3 - positive)
            after, some = run(x)
            self.assertEqual(after.tolist(), (4 * x).tolist())
            self.assertEqual(len(some), positive)

    def test_without_such_calls_all_is_one(self) -> None:
        with mock.patch.object(torch, "compile", lambda module, **_: module):
            module = traced()
            self.assertIs(pieces.compiled_pieces(module, lambda n: False),
                          module)


if __name__ == "__main__":
    unittest.main()
