"""Programs are drawn before and after a recipe."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from scaletorch import parallel
from scaletorch.parallel.picture import after, before
from tests.golden import check_golden


class Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.down(self.up(x).relu()) * self.scale).sum()


class TestPicture(unittest.TestCase):

    def test_two_axes(self) -> None:
        inputs = (torch.zeros(4, 8), )
        self.assertEqual(before(Layer(), inputs).count("linear("), 2)
        check_golden(
            self,
            after(Layer(), inputs,
                  parallel.fsdp() * parallel.megatron(), {
                      "dp": 2,
                      "tp": 2
                  }), """
            p_model_up_weight rests as S(1) S(0) (8, 4); dp: all_gather forward, reduce_scatter backward, gathered twice
            p_model_up_bias rests as R S(0) (8,); dp: none forward, all_reduce backward
            p_model_down_weight rests as S(0) S(1) (4, 8); dp: all_gather forward, reduce_scatter backward, gathered twice
            p_model_down_bias rests as S(0) R (4,); dp: all_gather forward, reduce_scatter backward, gathered twice
            tensors_0 = placeholder : (2, 8) float32, dp: S(0), tp: R
            b_model_scale = placeholder : (8,) float32, dp: R, tp: R
            linear = linear(tensors_0, p_model_up_weight, p_model_up_bias) : (2, 8) float32, dp: S(0), tp: S(1)
            relu = relu(linear) : (2, 8) float32, dp: S(0), tp: S(1)
            convert = convert[tp: R -> P](p_model_down_bias) : (8,) float32, dp: V, tp: P  # mask forward, none backward
            linear_1 = linear(relu, p_model_down_weight, convert) : (2, 8) float32, dp: S(0), tp: P
            mul = mul.Tensor(linear_1, b_model_scale) : (2, 8) float32, dp: S(0), tp: P
            sum_1 = sum(mul) : () float32, dp: P, tp: P
            convert_1 = convert[dp: P -> R](sum_1) : () float32, dp: R, tp: P  # all_reduce forward, none backward
            return [convert_1]
            """)

    def test_a_recipe_that_does_not_fit(self) -> None:
        with self.assertRaisesRegex(ValueError, "wants an axis 'dp'"):
            after(Layer(), (torch.zeros(4, 8), ),
                  parallel.ddp() * parallel.megatron(), {
                      "x": 2,
                      "tp": 2
                  })


if __name__ == "__main__":
    unittest.main()
