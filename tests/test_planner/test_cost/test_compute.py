from __future__ import annotations

import dataclasses
import unittest
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from planner.cluster import Coefficient, DeviceKind
from planner.cost.compute import Work, bytes_moved, memory_time_s, time_s, work
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


class TestTime(unittest.TestCase):

    device = DeviceKind(name="toy",
                        memory_bytes=1,
                        memory_bandwidth_bytes_per_s=100.0,
                        peak_flops_per_s=(("float32", 1000.0), ("bfloat16",
                                                                4000.0)),
                        launch_overhead_s=1.0,
                        efficiencies=(Coefficient(name="matmul",
                                                  value=0.5,
                                                  source="test"),
                                      Coefficient(name="memory",
                                                  value=0.1,
                                                  source="test")))

    def test_flops_bound(self) -> None:
        job = Work(kind="matmul",
                   forward_flops=1000,
                   forward_bytes=1,
                   forward_kernels=1,
                   backward_flops=2000,
                   backward_kernels=2)
        self.assertEqual(time_s(job, self.device, torch.float32), (3.0, 6.0))
        self.assertEqual(time_s(job, self.device, torch.bfloat16), (1.5, 3.0))

    def test_bytes_bound(self) -> None:
        job = Work(forward_bytes=100, forward_kernels=1)
        self.assertEqual(time_s(job, self.device, torch.float32), (11.0, 0.0))

    def test_functions_take_time_for_every_byte(self) -> None:
        device = dataclasses.replace(
            self.device,
            coefficients=(Coefficient(name="gelu_s_per_byte",
                                      value=0.02,
                                      source="test"),
                          Coefficient(name="gelu_backward_s_per_byte",
                                      value=0.03,
                                      source="test")))
        job = Work(forward_bytes=100,
                   forward_kernels=1,
                   backward_bytes=100,
                   backward_kernels=1,
                   function="gelu")
        self.assertEqual(time_s(job, device, torch.float32), (13.0, 14.0))
        self.assertEqual(time_s(job, self.device, torch.float32), (11.0, 11.0))

    def test_share_divides_work_and_not_launches(self) -> None:
        job = Work(kind="matmul", forward_flops=1000, forward_kernels=1)
        forward_s, _ = time_s(job, self.device, torch.float32, share=0.25)
        self.assertEqual(forward_s, 1.5)

    def test_units_idle_while_the_last_tiles_are_made(self) -> None:
        device = dataclasses.replace(self.device,
                                     coefficients=(Coefficient(
                                         name="wave_elements",
                                         value=100.0,
                                         source="test"), ))
        # 200 elements, half a wave more: a quarter longer. The gradient of
        # the first factor has 40, and takes twice as long; none of another.
        job = Work(kind="matmul",
                   forward_flops=1000,
                   forward_kernels=1,
                   backward_flops=1000,
                   backward_kernels=1,
                   factors=(0, 1),
                   results=(200, 40, 0))
        self.assertEqual(time_s(job, device, torch.float32), (3.5, 5.0))
        # Of two ranks that share the rows, each makes half of the product.
        self.assertEqual(
            time_s(job, device, torch.float32, share=0.5,
                   made=(0.5, 0.5, 1.0)), (2.5, 3.0))

    def test_the_backward_of_attention_is_slower(self) -> None:
        device = dataclasses.replace(
            self.device,
            efficiencies=tuple(
                Coefficient(name=n, value=v, source="test")
                for n, v in (("attention", 1.0), ("second_attention", 0.5))),
            coefficients=(Coefficient(name="attention_backward",
                                      value=0.8,
                                      source="test"), ))
        job = Work(kind="attention", forward_flops=1000, backward_flops=2000)
        self.assertEqual(time_s(job, device, torch.float32), (2.0, 5.0))

    def test_more_work_takes_no_less_time(self) -> None:
        for width in (1, 8, 64):
            with self.subTest(width):
                small = work(
                    call_of(aten.linear.default, _rand(2, width),
                            _rand(4, width)))
                large = work(
                    call_of(aten.linear.default, _rand(2, 2 * width),
                            _rand(4, 2 * width)))
                pairs = zip(time_s(small, self.device, torch.float32),
                            time_s(large, self.device, torch.float32))
                self.assertTrue(all(a < b for a, b in pairs))


class TestMemory(unittest.TestCase):

    def test_the_first_bytes_of_each_kernel_come_from_the_cache(self) -> None:
        plain = DeviceKind(name="plain",
                           memory_bytes=1,
                           memory_bandwidth_bytes_per_s=1e9,
                           peak_flops_per_s=(("float32", 1e12), ),
                           launch_overhead_s=0.0)
        cached = dataclasses.replace(
            plain,
            coefficients=tuple(
                Coefficient(name=n, value=v, source="made up")
                for n, v in (("cache_bytes", 1e6), ("cache_bytes_per_s",
                                                    1e10))))
        self.assertAlmostEqual(memory_time_s(3e6, plain), 3e-3)
        self.assertAlmostEqual(memory_time_s(5e5, cached), 5e-5)
        self.assertAlmostEqual(memory_time_s(3e6, cached), 1e-4 + 2e-3)
        self.assertAlmostEqual(memory_time_s(3e6, cached, kernels=3), 3e-4)

    def test_a_share_of_one_dtype(self) -> None:
        device = DeviceKind(name="shares",
                            memory_bytes=1,
                            memory_bandwidth_bytes_per_s=1e9,
                            peak_flops_per_s=(("float32", 1e12), ),
                            launch_overhead_s=0.0,
                            efficiencies=tuple(
                                Coefficient(name=n, value=v, source="made up")
                                for n, v in (("attention", 0.5),
                                             ("attention_bfloat16", 0.25))))
        self.assertEqual(device.efficiency("attention", torch.float32), 0.5)
        self.assertEqual(device.efficiency("attention", torch.bfloat16), 0.25)
        self.assertEqual(device.efficiency("matmul", torch.bfloat16), 1.0)


if __name__ == "__main__":
    unittest.main()
