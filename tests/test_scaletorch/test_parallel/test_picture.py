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

    def test_one_axis(self) -> None:
        inputs = (torch.zeros(4, 8), )
        self.assertEqual(before(Layer(), inputs).count("linear("), 2)
        check_golden(self, after(Layer(), inputs, parallel.fsdp(), {"dp": 2}),
                     """
            p_model_up_weight rests as S(0) (8, 8); dp: all_gather forward, reduce_scatter backward, gathered twice
            p_model_up_bias rests as S(0) (8,); dp: all_gather forward, reduce_scatter backward, gathered twice
            p_model_down_weight rests as S(0) (4, 16); dp: all_gather forward, reduce_scatter backward, gathered twice
            p_model_down_bias rests as S(0) (4,); dp: all_gather forward, reduce_scatter backward, gathered twice
            tensors_0 = placeholder : (2, 8) float32, dp: S(0)
            b_model_scale = placeholder : (8,) float32, dp: R
            linear = linear(tensors_0, p_model_up_weight, p_model_up_bias) : (2, 16) float32, dp: S(0)
            relu = relu(linear) : (2, 16) float32, dp: S(0)
            linear_1 = linear(relu, p_model_down_weight, p_model_down_bias) : (2, 8) float32, dp: S(0)
            mul = mul.Tensor(linear_1, b_model_scale) : (2, 8) float32, dp: S(0)
            sum_1 = sum(mul) : () float32, dp: P
            convert = convert[dp: P -> R](sum_1) : () float32, dp: R  # all_reduce forward, none backward
            return [convert]
            """)

    def test_two_axes(self) -> None:
        text = after(Layer(), (torch.zeros(4, 8), ),
                     parallel.fsdp() * parallel.megatron(), {
                         "dp": 2,
                         "tp": 2
                     })
        self.assertRegex(
            text, r"up_weight rests as S\(\d\) S\(0\) .*; dp: "
            "all_gather forward, reduce_scatter backward")
        self.assertEqual(text.count("(2, 8) float32, dp: S(0), tp: S(1)"), 2)

    def test_a_recipe_that_does_not_fit(self) -> None:
        with self.assertRaisesRegex(ValueError, "wants an axis 'dp'"):
            after(Layer(), (torch.zeros(4, 8), ),
                  parallel.ddp() * parallel.megatron(), {
                      "x": 2,
                      "tp": 2
                  })


if __name__ == "__main__":
    unittest.main()
