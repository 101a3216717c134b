from __future__ import annotations

import unittest
from dataclasses import replace

from planner.cost.analytic.configurations import Configurations
from scripts.published.case import Case
from scripts.published.otherwise import as_here, otherwise_bytes, otherwise_s
from scripts.published.read import read_case
from tests.test_scripts.rows import row


def _case(**plan: object) -> Case:
    """On one device, whose software is this library's but for `plan`."""
    alone = {"tp": 1, "pp": 1, "dp": 1, "sharding": "ddp"}
    case = read_case(
        row(parallel=alone,
            hardware={
                "gpu": "A100-80GB",
                "count": 1
            },
            measured={"peak_mem_gb": 40}))
    here = replace(as_here(case.plan), fused_attention=True)
    return replace(case, plan=replace(here, **plan))


class TestOtherwise(unittest.TestCase):

    def test_nothing_where_software_does_the_same(self) -> None:
        self.assertEqual(otherwise_s(_case()), 0.0)

    def test_the_last_product_of_a_layer_that_is_made_again(self) -> None:
        # 4 x 1024 rows of 8192 times 8192 x 2048, and half a wave of tiles,
        # of 24 layers in 8 parts; of 2-byte operands 0.3 is not hidden.
        case = _case(stops_early=False)
        device = case.cluster.device
        flops = 2 * 4096 * 8192 * 2048 + 8192 * device.coefficient(
            "wave_elements", 0.0)
        moved = 2 * (8192 * 2048 + 4096 * (8192 + 2048))
        bandwidth = (device.memory_bandwidth_bytes_per_s *
                     device.efficiency("memory"))
        product_s = (flops / (312e12 * device.efficiency("matmul")) +
                     device.coefficient("exposed", 0.0) * moved / bandwidth +
                     device.launch_overhead_s)
        self.assertAlmostEqual(otherwise_s(case) / (24 * 8 * product_s),
                               1,
                               delta=0.01)

    def test_copies_of_gradients(self) -> None:
        # A gradient of 2 bytes is cleared, read, written, copied and that
        # read: 12 bytes of each parameter in each of 8 parts but the first.
        case = _case(copied_accumulation=True)
        device = case.cluster.device
        held = 24 * (12 * 2048**2 + 4 * 2048) + 50000 * 2048
        bandwidth = (device.memory_bandwidth_bytes_per_s *
                     device.efficiency("memory"))
        self.assertAlmostEqual(otherwise_s(case) / (7 * 12 * held / bandwidth),
                               1,
                               delta=0.01)

    def test_a_host_that_waits_once(self) -> None:
        self.assertAlmostEqual(otherwise_s(_case(step_host_s=0.04)), 0.04)

    def test_wide_sums_and_moments_take_more_memory(self) -> None:
        held = 24 * (12 * 2048**2 + 4 * 2048) + 50000 * 2048
        more = _case(gradient_bytes=4, master_bytes=12)
        self.assertAlmostEqual(
            (otherwise_bytes(more) - otherwise_bytes(_case())) / (10 * held),
            1,
            delta=0.01)

    def test_a_process_takes_more_than_tensors(self) -> None:
        found = otherwise_bytes(_case())
        self.assertGreater(found, 1.5 * 2**30)
        tensors = replace(_case(), reserved=False)
        self.assertEqual(otherwise_bytes(tensors), 0.0)

    def test_gradients_go_beside_a_backward_of_the_whole_batch(self) -> None:
        whole, parts = (as_here(Configurations(dp=2, num_microbatches=n))
                        for n in (1, 4))
        self.assertTrue(whole.overlap)
        self.assertFalse(parts.overlap)


if __name__ == "__main__":
    unittest.main()
