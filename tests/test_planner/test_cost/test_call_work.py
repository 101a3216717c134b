from __future__ import annotations

import unittest
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from planner.cost.call_work import work
from planner.cost.moved import bytes_moved
from planner.cost.work import Work
from tests.test_planner.test_cost.calls import call_of

aten = torch.ops.aten


def _rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def _products() -> dict[str, tuple[Any, ...]]:
    x, w, b = _rand(2, 3, 8), _rand(4, 8), _rand(4)
    image = _rand(2, 6, 9, 9)
    q = _rand(2, 4, 6, 8)
    return {
        "linear": (aten.linear.default, x, w, b),
        "matmul": (aten.matmul.default, x, _rand(8, 5)),
        "mm": (aten.mm.default, _rand(3, 4), _rand(4, 5)),
        "bmm": (aten.bmm.default, x, _rand(2, 8, 5)),
        "addmm": (aten.addmm.default, b, _rand(3, 8), _rand(8, 4)),
        "einsum": (aten.einsum.default, "bsd,bed->bse", [x, _rand(2, 7, 8)]),
        "conv2d": (aten.conv2d.default, image, _rand(8, 6, 3,
                                                     3), None, [2, 2], [1, 1]),
        "conv1d": (aten.conv1d.default, x, _rand(5, 3, 3)),
        "sdpa": (aten.scaled_dot_product_attention.default, q,
                 _rand(2, 4, 10, 8), _rand(2, 4, 10, 8)),
    }


class TestFlops(unittest.TestCase):

    def _counted(self, target: Any, *args: Any) -> tuple[int, int]:
        """Forward and backward flops by PyTorch's counter."""
        with FlopCounterMode(display=False) as forward:
            result = target(*args)
        with FlopCounterMode(display=False) as backward:
            result.sum().backward()
        return forward.get_total_flops(), backward.get_total_flops()

    def test_products_agree_with_the_flop_counter(self) -> None:
        for name, (target, *args) in _products().items():
            if name == "sdpa":
                continue
            counted = self._counted(target, *args)
            found = work(call_of(target, *args))
            with self.subTest(name):
                self.assertEqual((found.forward_flops, found.backward_flops),
                                 counted)

    def test_attention_agrees_with_the_flop_counter_s_formula(self) -> None:
        target, q, k, v = _products()["sdpa"]
        found = work(call_of(target, q, k, v))
        packet = aten._scaled_dot_product_flash_attention
        self.assertEqual(found.forward_flops, flop_registry[packet](q,
                                                                    k,
                                                                    v,
                                                                    out_val=q))
        packet = aten._scaled_dot_product_flash_attention_backward
        self.assertEqual(found.backward_flops,
                         flop_registry[packet](q, q, k, v, out_val=(q, k, v)))

    def test_causal_attention_skips_what_is_masked(self) -> None:
        q = _rand(1, 1, 4, 8)
        target = aten.scaled_dot_product_attention.default
        full = work(call_of(target, q, q, q))
        causal = work(call_of(target, q, q, q, None, 0.0, True))
        self.assertEqual(causal.forward_flops, full.forward_flops * 10 / 16)
        self.assertEqual(causal.forward_bytes, full.forward_bytes)

    def test_grouped_convolution_by_hand(self) -> None:
        found = work(
            call_of(aten.conv2d.default, _rand(2, 6, 5, 5), _rand(8, 3, 3, 3),
                    None, [1, 1], [0, 0], [1, 1], 2))
        flops = 2 * (2 * 8 * 3 * 3) * (3 * 3 * 3)
        self.assertEqual((found.forward_flops, found.backward_flops),
                         (flops, 2 * flops))

    def test_transposed_convolution(self) -> None:
        args = (_rand(2, 4, 5, 5), _rand(4, 6, 3, 3), None, [2, 2])
        target = aten.conv_transpose2d.input
        found = work(call_of(target, *args))
        self.assertEqual(found.forward_flops, self._counted(target, *args)[0])

    def test_only_gradients_that_are_needed_count(self) -> None:
        x, w = torch.randn(3, 8), _rand(4, 8)
        call = call_of(aten.linear.default, x, w)
        found = work(call)
        self.assertEqual(found.backward_flops, found.forward_flops)
        self.assertEqual(found.backward_kernels, 1)
        frozen = work(call_of(aten.linear.default, x, w.detach()))
        self.assertEqual(
            (frozen.backward_flops, frozen.backward_bytes, frozen.saved_bytes),
            (0, 0, 0))

    def test_the_gradient_of_a_bias_is_a_sum_of_its_own(self) -> None:
        plain = work(call_of(aten.linear.default, _rand(3, 8), _rand(4, 8)))
        found = work(
            call_of(aten.linear.default, _rand(3, 8), _rand(4, 8), _rand(4)))
        self.assertEqual(found.backward_kernels, plain.backward_kernels + 1)
        # Reads the gradient of the output, writes the bias'.
        self.assertEqual(found.backward_bytes - plain.backward_bytes,
                         3 * 4 * 4 + 4 * 4)
        self.assertEqual(found.backward_flops, plain.backward_flops)


class TestExperts(unittest.TestCase):

    def _work(self, gate: str) -> Work:
        tokens, index = _rand(6, 8), torch.zeros(6, 2, dtype=torch.long)
        outer = 4 if gate == "none" else 8
        return work(
            call_of(torch.ops.scaletorch.experts.default, tokens, index,
                    _rand(6, 2), _rand(3, outer, 8), _rand(3, 8, 4), None,
                    None, "silu", gate))

    def test_kernels_beside_the_products_by_hand(self) -> None:
        found, rows = self._work("halves"), 12
        self.assertEqual(found.forward_flops, 2 * rows * 8 * (8 + 4))
        # Picked, weighted, put into zeros and summed; between the products
        # the activation is read and written, and multiplied by the value.
        self.assertEqual(found.forward_beside.size_bytes,
                         4 * rows * (8 * 8 + 5 * 4))
        self.assertEqual(found.forward_beside.evaluated,
                         (("silu", 4 * rows * 2 * 4), ))
        self.assertEqual(dict(found.backward_beside.evaluated), {
            "silu": 4 * rows * 4 * 4,
            "silu_backward": 4 * rows * 3 * 4
        })

    def test_without_a_gate_less_is_between_them(self) -> None:
        plain, gated = (self._work(g) for g in ("none", "halves"))
        for name in ("forward_beside", "backward_beside"):
            self.assertLess(
                getattr(plain, name).size_bytes,
                getattr(gated, name).size_bytes)


class TestBytes(unittest.TestCase):

    def test_cross_entropy_is_two_kernels_each_way(self) -> None:
        labels = torch.zeros(3, dtype=torch.long)
        found = work(
            call_of(aten.cross_entropy_loss.default, _rand(3, 8), labels))
        self.assertEqual((found.forward_kernels, found.backward_kernels),
                         (2, 2))
        self.assertEqual(found.function, "cross_entropy")
        logits = 3 * 8 * 4
        # The gradient of the log-softmax is written and read; its output
        # read, the result written; and the loss, the labels, a weight.
        self.assertGreaterEqual(found.backward_bytes, 4 * logits)
        self.assertLess(found.backward_bytes, 5 * logits)

    def test_linear_by_hand(self) -> None:
        found = work(call_of(aten.linear.default, _rand(3, 8), _rand(4, 8)))
        x, w, y = 3 * 8 * 4, 4 * 8 * 4, 3 * 4 * 4
        self.assertEqual(found.forward_bytes, x + w + y)
        # dx reads dy and w, dw reads dy and x.
        self.assertEqual(found.backward_bytes, 2 * y + w + x + x + w)

    def test_views_are_free(self) -> None:
        x = _rand(4, 6)
        for target, *args in ((aten.view.default,
                               [2, 12]), (aten.transpose.int, 0, 1),
                              (aten.split.Tensor, 2), (aten.detach.default, ),
                              (aten.to.dtype, torch.float32)):
            with self.subTest(str(target)):
                found = work(call_of(target, x, *args))
                self.assertEqual((found.forward_bytes, found.forward_kernels),
                                 (0, 0))

    def test_copies_and_casts_are_not(self) -> None:
        x = _rand(4, 6)
        self.assertEqual(bytes_moved(call_of(aten.clone.default, x)), 192)
        cast = call_of(aten.to.dtype, x, torch.bfloat16)
        self.assertEqual(bytes_moved(cast), 96 + 48)

    def test_slice_pays_in_the_backward(self) -> None:
        found = work(call_of(aten.slice.Tensor, _rand(4, 6), 0, 0, 2))
        self.assertEqual(found.backward_bytes, 48 + 96)

    def test_embedding_reads_only_the_rows_it_needs(self) -> None:
        table, ids = _rand(1000, 8), torch.tensor([1, 2])
        call = call_of(aten.embedding.default, table, ids)
        self.assertEqual(bytes_moved(call), 64 + 64 + 16)

    def test_unknown_operators_move_their_bytes(self) -> None:
        x = _rand(4, 6)
        found = work(call_of(aten.lerp.Scalar, x, _rand(4, 6), 0.5))
        self.assertEqual(found.forward_bytes, 3 * 96)
        self.assertEqual(found.saved.inputs, (0, 1))


if __name__ == "__main__":
    unittest.main()
