from __future__ import annotations

import unittest

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.layers import expert_layer
from planner.cost.analytic.transformer import Transformer


class TestExperts(unittest.TestCase):
    """A layer of 8 experts of width 64, two for each of 128 tokens of 32
    elements."""

    def _bytes(self, **choices: bool) -> dict[str, float]:
        model = Transformer(layers=1,
                            hidden=32,
                            heads=4,
                            kv_heads=4,
                            ffn=64,
                            vocab=1024,
                            seq=128,
                            qk_dim=8,
                            v_dim=8,
                            qkv_parameters=3 * 32**2,
                            gated=True,
                            experts=8,
                            top_k=2,
                            expert_ffn=64,
                            expert_layers=1)
        return {
            o.name: float(o.size_bytes)
            for o in expert_layer(model, Configurations(**choices))
        }

    def test_biases_are_added_by_passes_of_their_own(self) -> None:
        plain, biased = self._bytes(), self._bytes(expert_biases=True)
        self.assertEqual(plain["expert biases"], 0.0)
        self.assertEqual(biased["expert biases"], 14 * 2 * 256 * 32)
        self.assertEqual(biased["clamped gates"], 8 * 2 * 256 * 64)

    def test_products_that_evaluate_the_gate_move_nothing_for_it(self) -> None:
        self.assertEqual(self._bytes()["experts activation"], 3 * 2 * 256 * 64)
        self.assertEqual(
            self._bytes(fused_experts=True)["experts activation"], 0.0)


if __name__ == "__main__":
    unittest.main()
