from __future__ import annotations

import dataclasses
import unittest

import torch

from planner.cluster import Coefficient, DeviceKind
from planner.cost.beside import Beside
from planner.cost.call_work import work
from planner.cost.compute import time_s
from planner.cost.work import Work
from tests.test_planner.test_cost.calls import call_of

aten = torch.ops.aten


def _rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


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

    def test_what_is_beside_products_is_not_hidden(self) -> None:
        device = dataclasses.replace(self.device,
                                     coefficients=(Coefficient(
                                         name="silu_s_per_byte",
                                         value=0.02,
                                         source="test"), ))
        beside = Beside(size_bytes=100, evaluated=(("silu", 50), ))
        job = Work(kind="matmul",
                   forward_flops=1000,
                   forward_kernels=1,
                   forward_beside=beside)
        self.assertEqual(time_s(job, device, torch.float32), (3 + 10 + 1, 0.0))
        self.assertEqual(time_s(job, device, torch.float32, share=0.5),
                         (2 + 5 + 0.5, 0.0))

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

    def test_attention_has_half_of_its_rate_at_few_keys(self) -> None:
        device = dataclasses.replace(
            self.device,
            efficiencies=(Coefficient(name="attention",
                                      value=1.0,
                                      source="test"), ),
            coefficients=(Coefficient(name="half_keys",
                                      value=10.0,
                                      source="test"), ))
        for keys, longer in ((0.0, 1.0), (10.0, 2.0), (20.0, 1.5)):
            job = Work(kind="attention", forward_flops=1000, keys=keys)
            self.assertEqual(time_s(job, device, torch.float32)[0], longer)

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


if __name__ == "__main__":
    unittest.main()
