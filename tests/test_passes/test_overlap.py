from __future__ import annotations

import operator
import unittest

import torch

from passes.overlap import overlap, peak_bytes
from passes.text import joint_text
from tests.golden import check_golden
from tests.test_passes.test_merge_collectives import Builder

aten = torch.ops.aten


def backward() -> Builder:
    """A product's backward as autograd records it, and what follows."""
    b = Builder()
    x, w, g = b.operand("x", 8, 8), b.operand("w", 8, 8), b.operand("g", 8, 8)
    weight = b.call(aten.mm.default, x, g)
    summed = b.all_reduce(b.call(aten.mm.default, g, w))
    b.joint(weight, b.call(aten.exp.default, summed))
    return b


class TestOverlap(unittest.TestCase):

    def test_weight_gradients_run_while_the_sum_is_on_its_way(self) -> None:
        check_golden(
            self, joint_text(overlap(backward().graph)), """
            x = placeholder : (8, 8) float32
            w = placeholder : (8, 8) float32
            g = placeholder : (8, 8) float32
            mm_default_1 = mm(g, w) : (8, 8) float32
            all_reduce_default = all_reduce[sum, tp](mm_default_1) : (8, 8) float32
            mm_default = mm(x, g) : (8, 8) float32
            wait_tensor_default = wait_tensor(all_reduce_default) : (8, 8) float32
            exp_default = exp(wait_tensor_default) : (8, 8) float32
            return [mm_default, exp_default]
            """)

    def test_the_peak_may_not_grow_beyond_the_allowance(self) -> None:
        b = Builder()
        x = b.operand("x", 64)
        big = b.call(aten.expand.default, x, [64, 64])
        wide = b.call(aten.exp.default, big)
        small = b.call(aten.sum.dim_IntList, wide, [0])
        held = b.call(aten.exp.default, b.call(aten.cat.default, [x] * 64))
        tail = b.call(aten.sum.default, held)
        sums = b.all_reduce(small)
        b.joint(b.call(aten.exp.default, sums), tail)
        for allowance in (0.0, 10.0):
            moved = overlap(b.graph, allowance=allowance)
            self.assertLessEqual(peak_bytes(moved),
                                 peak_bytes(b.graph) * (1 + allowance))

    def test_results_of_a_call_are_taken_out_where_it_is_made(self) -> None:
        """Or all of them would be held as long as one is not."""
        b = Builder()
        x, w = b.operand("x", 8, 8), b.operand("w", 8)
        normed = b.call(aten.native_layer_norm.default, x, [8], w, w, 1e-5)
        mean = b.call(operator.getitem, normed, 1)
        out = b.call(operator.getitem, normed, 0)
        summed = b.all_reduce(b.call(aten.exp.default, out))
        b.joint(mean, b.call(aten.exp.default, summed))
        check_golden(
            self, joint_text(overlap(b.graph)), """
            x = placeholder : (8, 8) float32
            w = placeholder : (8,) float32
            native_layer_norm_default = native_layer_norm(x, [8], w, w, 1e-05) : (8, 8) float32, (8, 1) float32, (8, 1) float32
            getitem = native_layer_norm_default[1] : (8, 1) float32
            getitem_1 = native_layer_norm_default[0] : (8, 8) float32
            exp_default = exp(getitem_1) : (8, 8) float32
            all_reduce_default = all_reduce[sum, tp](exp_default) : (8, 8) float32
            wait_tensor_default = wait_tensor(all_reduce_default) : (8, 8) float32
            exp_default_1 = exp(wait_tensor_default) : (8, 8) float32
            return [getitem, exp_default_1]
            """)

    def test_a_view_of_a_number_is_a_tensor(self) -> None:
        b = Builder()
        x = b.operand("x", 4)
        factor = b.call(aten._conj.default, 1j)
        b.joint(b.call(aten.exp.default, b.call(aten.mul.Tensor, x, factor)))
        self.assertEqual(peak_bytes(b.graph), 2 * 4 * 8)

    def test_without_collectives_nothing_moves(self) -> None:
        b = Builder()
        x = b.operand("x", 4)
        b.joint(b.call(aten.exp.default, x))
        self.assertIs(overlap(b.graph), b.graph)


if __name__ == "__main__":
    unittest.main()
