from __future__ import annotations

import dataclasses
import unittest

import torch

from planner.cluster import Coefficient, DeviceKind
from planner.cost.roofline import memory_time_s


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
