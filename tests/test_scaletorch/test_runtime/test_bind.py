from __future__ import annotations

import unittest

import torch
import torch.distributed as dist
from torch import fx

from passes.collectives import AxisRef
from scaletorch.runtime.bind import bind
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.started import is_overwritable

aten = torch.ops.aten
ops = torch.ops._c10d_functional


def graph_of_all() -> fx.Graph:
    """A product, its sum over the axis, and dropout."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    product = graph.call_function(aten.mm.default, (x, x))
    summed = graph.call_function(
        ops.wait_tensor.default,
        (graph.call_function(ops.all_reduce.default,
                             (product, "sum", "tp")), ))
    dropped = graph.call_function(aten.native_dropout.default,
                                  (summed, 0.5, True))
    dropped.meta["custom"] = {"random": ("dropout", ("tp", ))}
    graph.output((dropped, ))
    return graph


class TestBind(unittest.TestCase):

    @classmethod
    def setUpClass(cls) -> None:
        dist.init_process_group("gloo",
                                store=dist.HashStore(),
                                rank=0,
                                world_size=1)
        world = dist.group.WORLD
        axis = AxisRef(name=world.group_name, size=1, coordinate=0)
        cls.groups = Groups.of(["tp"], [axis], [world])

    @classmethod
    def tearDownClass(cls) -> None:
        dist.destroy_process_group()

    def test_the_seed_decides_and_torchs_generator_stays(self) -> None:
        run = bind(graph_of_all(), self.groups)
        x = torch.ones(8, 8)
        before = torch.get_rng_state()
        first, again, other = run(1, x), run(1, x), run(2, x)
        self.assertTrue(torch.equal(before, torch.get_rng_state()))
        self.assertTrue(torch.equal(first[0][1], again[0][1]))
        self.assertFalse(torch.equal(first[0][1], other[0][1]))

    def test_compiled_draws_the_same(self) -> None:
        eager = bind(graph_of_all(), self.groups)
        compiled = bind(graph_of_all(), self.groups, compile=True)
        x = torch.randn(8, 8)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for seed in (1, 2, 3):
                for a, b in zip(eager(seed, x)[0],
                                compiled(seed, x)[0],
                                strict=True):
                    torch.testing.assert_close(a, b)

    def test_only_memory_that_nobody_else_reads_is_overwritten(self) -> None:
        graph = fx.Graph()
        x = graph.placeholder("x")
        view = graph.call_function(aten.reshape.default, (x, [-1]))
        fresh = graph.call_function(aten.mm.default, (x, x))
        fresh_view = graph.call_function(aten.t.default, (fresh, ))
        shared = graph.call_function(aten.mm.default, (x, x))
        graph.output((view, fresh_view, shared, shared))
        last = graph.call_function(aten.exp.default, (shared, ))
        del last
        for node, wanted in ((view, False), (fresh_view, True), (shared,
                                                                 False)):
            self.assertEqual(is_overwritable(node), wanted, node)


if __name__ == "__main__":
    unittest.main()
