from __future__ import annotations

import unittest

import torch
import torch.distributed._functional_collectives  # noqa: F401
from torch.nn import functional as F  # noqa: N812

from planner.cost.memory import liveness, saved_across, saved_by_forward
from tests.test_planner.test_cost.traced import trace

c10d = torch.ops._c10d_functional


def _chain(x: torch.Tensor) -> torch.Tensor:
    return x.exp().sin().cos()


class TestLiveness(unittest.TestCase):

    def test_chain_by_hand(self) -> None:
        found = liveness(trace(_chain, (100, )))
        # The input is kept; each result dies after the next reads it.
        self.assertEqual(found.profile,
                         (("exp", 800), ("sin", 1200), ("cos", 1200)))
        self.assertEqual((found.peak_bytes, found.peak_node), (1200, "sin"))
        self.assertEqual((found.input_bytes, found.output_bytes), (400, 400))

    def test_inputs_that_the_caller_gives_up(self) -> None:
        found = liveness(trace(_chain, (100, )), keep_inputs=False)
        self.assertEqual([size for _, size in found.profile], [800] * 3)

    def test_views_share_their_base(self) -> None:
        graph = trace(lambda x: (x.exp().view(10, 10).t()[2:] + 1), (100, ))
        self.assertEqual(liveness(graph).peak_bytes, 400 + 400 + 320)

    def test_a_view_keeps_its_whole_base(self) -> None:
        graph = trace(lambda x: (x.exp()[:1], x.sin()), (100, ))
        self.assertEqual(liveness(graph).peak_bytes, 1200)
        self.assertEqual(liveness(graph).output_bytes, 800)

    def test_returned_inputs_are_no_outputs(self) -> None:
        self.assertEqual(
            liveness(trace(lambda x: x.view(10, 10), (100, ))).output_bytes, 0)

    def test_waiting_allocates_nothing(self) -> None:
        graph = trace(
            lambda x: c10d.wait_tensor(c10d.all_reduce(x, "sum", "tp")),
            (100, ))
        self.assertEqual(liveness(graph).peak_bytes, 800)

    def test_unused_results_die_at_once(self) -> None:
        graph = trace(lambda x: (x.exp(), x.sin())[1], (100, ))
        self.assertEqual(liveness(graph).profile[-1][1], 800)

    def test_graph_without_calls(self) -> None:
        found = liveness(trace(lambda x: x, (100, )))
        self.assertEqual((found.peak_bytes, found.peak_node), (400, "output"))


class TestSaved(unittest.TestCase):

    def test_forward_graph(self) -> None:

        def forward(x: torch.Tensor, w: torch.Tensor) -> tuple:
            y = x @ w
            z = F.gelu(y)
            # As a split gives them: the result, then what is saved, a
            # tensor and its view once.
            return z, x, w.t(), y, y.t()

        found = saved_by_forward(trace(forward, (3, 8), (8, 5)), 1)
        self.assertEqual(found.own_bytes, 3 * 5 * 4)
        self.assertEqual(found.input_bytes, (3 * 8 + 8 * 5) * 4)

    def test_joint_graph(self) -> None:

        def joint(x: torch.Tensor, w: torch.Tensor) -> tuple:
            loss = F.gelu(x @ w).exp().sum()
            return loss, *torch.autograd.grad(loss, (x, w))

        graph = trace(joint, (3, 8), (8, 5), requires_grad=True)
        found = saved_across(graph, "sum_1")
        # gelu's input and exp's result; ones_like reads the loss.
        self.assertEqual(found.own_bytes, 2 * 3 * 5 * 4 + 4)
        self.assertEqual(found.input_bytes, (3 * 8 + 8 * 5) * 4)

    def test_unknown_node(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "no node 'loss'; its nodes "
                "are x_1, exp"):
            saved_across(trace(_chain, (4, )), "loss")


if __name__ == "__main__":
    unittest.main()
