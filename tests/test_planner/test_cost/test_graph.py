from __future__ import annotations

import unittest

import torch
import torch.distributed._functional_collectives  # noqa: F401
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from planner.cluster import AxisInfo, Link, axis_link, load_cluster
from planner.cost.collective import all_gather_time_s, all_reduce_time_s
from planner.cost.graph import collective_kind, cost_of_graph
from tests.test_planner.test_cost.traced import trace

aten = torch.ops.aten
c10d = torch.ops._c10d_functional
_CLUSTER = load_cluster("cpu-gloo")
_LINK = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e9)
_AXES = {"tp": AxisInfo(size=4, link=_LINK)}


def _training_step(x: torch.Tensor,
                   w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    loss = F.gelu(x @ w).pow(2).sum()
    return loss, *torch.autograd.grad(loss, (x, w))


def _all_collectives(x: torch.Tensor) -> torch.Tensor:
    x = c10d.wait_tensor(c10d.all_gather_into_tensor(x, 4, "tp"))
    x = c10d.wait_tensor(c10d.all_reduce(x, "sum", "tp"))
    x = c10d.wait_tensor(c10d.reduce_scatter_tensor(x, "sum", 4, "tp"))
    return c10d.wait_tensor(c10d.all_to_all_single(x, [2] * 4, [2] * 4, "tp"))


class TestCompute(unittest.TestCase):

    def test_flops_are_those_of_the_flop_counter(self) -> None:
        cost = cost_of_graph(
            trace(_training_step, (3, 8), (8, 5), requires_grad=True),
            _CLUSTER, {})
        x, w = (torch.randn(s, requires_grad=True) for s in ((3, 8), (8, 5)))
        with FlopCounterMode(display=False) as counter:
            _training_step(x, w)
        self.assertEqual(cost.flops, counter.get_total_flops())
        self.assertEqual(cost.flops, 3 * 2 * 3 * 8 * 5)

    def test_one_product_by_hand(self) -> None:
        cost = cost_of_graph(trace(torch.mm, (64, 128), (128, 32)), _CLUSTER,
                             {})
        (node, ) = cost.nodes
        self.assertEqual(node.size_bytes, 4 * (64 * 128 + 128 * 32 + 64 * 32))
        device = _CLUSTER.device
        compute_s = 2 * 64 * 128 * 32 / device.peak(torch.float32)
        memory_s = node.size_bytes / device.memory_bandwidth_bytes_per_s
        self.assertAlmostEqual(
            node.time_s,
            max(compute_s, memory_s) + device.launch_overhead_s)
        self.assertEqual(cost.compute_s, node.time_s)

    def test_views_are_free_and_copies_are_not(self) -> None:
        cost = cost_of_graph(
            trace(lambda x: x.t().contiguous().view(-1)[2:], (4, 6)), _CLUSTER,
            {})
        self.assertEqual([n.target for n in cost.nodes],
                         ["aten.clone.default"])
        self.assertEqual(cost.size_bytes, 2 * 96)

    def test_broadcast_operands_are_read_once(self) -> None:
        cost = cost_of_graph(
            trace(lambda x, y: x + y.expand(64, 8), (64, 8), (8, )), _CLUSTER,
            {})
        self.assertEqual(cost.size_bytes, 2 * 64 * 8 * 4 + 8 * 4)

    def test_attention_forward_and_backward(self) -> None:

        def step(q: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
            return torch.autograd.grad(out.sum(), q)

        cost = cost_of_graph(trace(step, (2, 3, 4, 8), requires_grad=True),
                             _CLUSTER, {})
        # 10 of 16 pairs; 2 products forward and 5 backward of width 8.
        self.assertEqual(cost.flops, 2 * (2 * 3 * 10) * 8 * 7)

    def test_grouped_convolution_backward(self) -> None:

        def step(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(F.conv2d(x, w, groups=2).sum(), (x, w))

        cost = cost_of_graph(
            trace(step, (2, 6, 5, 5), (8, 3, 3, 3), requires_grad=True),
            _CLUSTER, {})
        self.assertEqual(cost.flops, 3 * 2 * (2 * 8 * 9) * 27)

    def test_composites_are_refused(self) -> None:
        graph = trace(torch.mm, (4, 4), (4, 4))
        (node, ) = graph.graph.find_nodes(op="call_function",
                                          target=aten.mm.default)
        node.target = aten.matmul.default
        with self.assertRaisesRegex(
                ValueError, "mm is the composite "
                "aten.matmul.default.*make_fx"):
            cost_of_graph(graph, _CLUSTER, {})

    def test_more_is_dearer(self) -> None:
        times = [
            cost_of_graph(trace(torch.mm, (n, 64), (64, 64)), _CLUSTER,
                          {}).compute_s for n in (1, 64, 512, 4096)
        ]
        self.assertEqual(times, sorted(set(times)))


class TestCollectives(unittest.TestCase):

    def test_kind_axis_size_and_time(self) -> None:
        cost = cost_of_graph(trace(_all_collectives, (8, 16)), _CLUSTER, _AXES)
        whole = 4 * 8 * 16 * 4
        self.assertEqual([(c.kind, c.axis, c.size_bytes)
                          for c in cost.collectives],
                         [("all_gather", "tp", whole),
                          ("all_reduce", "tp", whole),
                          ("reduce_scatter", "tp", whole),
                          ("all_to_all", "tp", whole // 4)])
        self.assertEqual(cost.collectives[0].time_s,
                         all_gather_time_s(whole, 4, _LINK))
        self.assertEqual(cost.collectives[1].time_s,
                         all_reduce_time_s(whole, 4, _LINK))
        self.assertEqual(cost.nodes, ())
        self.assertEqual(cost.bytes_by_axis(), {"tp": 3 * whole + whole // 4})
        self.assertEqual(cost.time_s, cost.communication_s)

    def test_slower_links_cost_more(self) -> None:
        graph = trace(_all_collectives, (1024, 1024))
        cluster = load_cluster("h100-sxm:4x8")
        inside = axis_link(cluster, (8, 4), 1)
        across = axis_link(cluster, (4, 8), 0)
        self.assertLess(
            cost_of_graph(graph, cluster, {
                "tp": inside
            }).communication_s,
            cost_of_graph(graph, cluster, {
                "tp": across
            }).communication_s)

    def test_unknown_group(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "all_gather_into_tensor .* runs on group 'tp', "
                "which is no axis that has a link; known names: dp"):
            cost_of_graph(trace(_all_collectives, (8, 16)), _CLUSTER,
                          {"dp": _AXES["tp"]})

    def test_kinds(self) -> None:
        self.assertEqual(collective_kind(c10d.broadcast.default), "broadcast")
        self.assertIsNone(collective_kind(c10d.wait_tensor.default))
        self.assertIsNone(collective_kind(aten.mm.default))


if __name__ == "__main__":
    unittest.main()
