from __future__ import annotations

import unittest

from planner.cluster import load_cluster
from planner.cost.analytic import operator_time
from planner.cost.analytic.attention import attention_core
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.hardware import Rates
from planner.cost.analytic.operators import Operator
from planner.cost.analytic.transformer import Transformer

_UNFUSED = Configurations(fused_attention=False)
_RATES = Rates(matmul_flops_per_s=1e9,
               attention_flops_per_s=1e9,
               first_attention_flops_per_s=1e9,
               second_attention_flops_per_s=1e9,
               linear8_flops_per_s=1e9,
               linear4_flops_per_s=1e9,
               misaligned=0.1,
               unaligned_flops_per_s=1e6,
               wave_elements=0.0,
               memory_bytes_per_s=1e30,
               launch_s=0.0,
               dispatch_s=0.0,
               queue_order=1.0,
               exposed=0.0,
               interference=0.0)


def _products(head: int) -> Operator:
    """The two products of unfused attention with 4 heads on 64 tokens."""
    model = Transformer(layers=1,
                        hidden=4 * head,
                        heads=4,
                        kv_heads=4,
                        ffn=16 * head,
                        vocab=1024,
                        seq=64,
                        qk_dim=head,
                        v_dim=head,
                        qkv_parameters=3 * (4 * head)**2)
    return next(o for o in attention_core(model, _UNFUSED)
                if o.name == "score and value products")


def _time_s(head: int) -> float:
    return float(
        operator_time.time_s([_products(head)],
                             _RATES,
                             _UNFUSED,
                             backward=False))


class TestUnaligned(unittest.TestCase):

    def test_heads_of_eight_elements_are_for_the_units_for_matrices(
            self) -> None:
        # 4 x 64 rows meet 64 keys, and 64 values, of 104 elements: 2 flops
        # each, and three halvings of 64 leave the 8 that divide 104.
        self.assertAlmostEqual(_time_s(104),
                               4 * 64 * 64 * 2 * 104 * 2 * 1.3 / 1e9)

    def test_other_heads_are_for_the_units_for_32_bits(self) -> None:
        self.assertAlmostEqual(_time_s(108), 4 * 64 * 64 * 2 * 108 * 2 / 1e6)

    def test_a_device_has_them_at_a_share_of_its_peak_in_32_bits(self) -> None:
        rates = Rates.of(load_cluster("a100-80g").device)
        self.assertAlmostEqual(
            rates.unaligned_flops_per_s / 19.5e12,
            load_cluster("a100-80g").device.efficiency("unaligned"))

    def test_a_device_that_was_not_measured_makes_them_like_all(self) -> None:
        rates = Rates.of(load_cluster("tpu-v4").device)
        self.assertEqual(rates.unaligned_flops_per_s, rates.matmul_flops_per_s)


if __name__ == "__main__":
    unittest.main()
