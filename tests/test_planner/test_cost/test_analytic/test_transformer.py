from __future__ import annotations

import unittest

from planner.cost.analytic.transformer import latent_projections
from tests.test_planner.test_cost.test_analytic.models import llama_8b


class TestTransformer(unittest.TestCase):

    def test_parameters_of_a_published_model(self) -> None:
        # Llama 3 8B has 8.03e9; two norms of the four counted per layer.
        self.assertAlmostEqual(llama_8b().parameters / 8.03e9, 1, places=2)

    def test_a_tied_head_is_counted_once(self) -> None:
        whole, tied = llama_8b(), llama_8b(tied=True)
        self.assertEqual(whole.parameters - tied.parameters, 128256 * 4096)

    def test_model_flops_are_six_per_parameter_and_token(self) -> None:
        model = llama_8b(seq=1)
        products = model.parameters - 128256 * 4096
        self.assertAlmostEqual(model.model_flops(1) / (6 * products),
                               1,
                               places=3)

    def test_scores_are_counted_in_full(self) -> None:
        short, long = (llama_8b(seq=n).model_flops(1) for n in (1, 1001))
        # 6 x layers x heads x tokens x (128 + 128).
        self.assertEqual(long - short, 6 * 32 * 32 * 1000 * 256)

    def test_experts_count_where_they_are_asked_for(self) -> None:
        routed = llama_8b(experts=8,
                          top_k=2,
                          expert_ffn=1024,
                          expert_layers=32)
        self.assertEqual(routed.expert_parameters, 8 * 3 * 4096 * 1024)
        fewer = llama_8b(experts=8, top_k=1, expert_ffn=1024, expert_layers=32)
        self.assertEqual(
            routed.model_flops(1) - fewer.model_flops(1),
            6 * 32 * 3 * 4096 * 1024)

    def test_projections_of_latent_attention(self) -> None:
        # DeepSeek-V3: 7168 wide, 128 heads.
        found = latent_projections(hidden=7168,
                                   heads=128,
                                   q_rank=1536,
                                   kv_rank=512,
                                   nope_dim=128,
                                   rope_dim=64,
                                   v_dim=128)
        self.assertEqual(found,
                         7168 * 2112 + 1536 * 128 * 192 + 512 * 128 * 256)


if __name__ == "__main__":
    unittest.main()
