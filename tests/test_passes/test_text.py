"""What each pass leaves of small programs, printed."""

from __future__ import annotations

import unittest

from passes.kernels import PASS_ORDER
from tests.golden import check_golden
from tests.test_passes.lowering import (DATA, MEGATRON, SEQUENCE, dumped,
                                        lowered, stages)


class TestDump(unittest.TestCase):

    def test_every_stage_has_a_numbered_file(self) -> None:
        files = dumped(MEGATRON)
        self.assertEqual(list(files), [
            f"{number:02}_{stage}.Perceptron.txt"
            for number, stage in enumerate(PASS_ORDER)
        ])
        for stage in ("insert_collectives", "localize_shapes"):
            name = f"{PASS_ORDER.index(stage):02}_{stage}.Perceptron.txt"
            self.assertIn("tp: S(2)", files[name])


class TestMegatron(unittest.TestCase):

    @classmethod
    def setUpClass(cls) -> None:
        cls.stages = stages(MEGATRON)

    def test_conversions(self) -> None:
        check_golden(
            self, self.stages["insert_collectives"], """
            tensors_0 = placeholder : (2, 4, 4) float32, tp: R
            p_model_norm_weight = placeholder : (4,) float32, tp: R
            p_model_norm_bias = placeholder : (4,) float32, tp: R
            p_model_up_weight = placeholder : (4, 4) float32, tp: S(0)
            p_model_down_weight = placeholder : (4, 4) float32, tp: S(1)
            p_model_down_bias = placeholder : (4,) float32, tp: R
            layer_norm = layer_norm(tensors_0, [4], p_model_norm_weight, p_model_norm_bias, 1e-05, False) : (2, 4, 4) float32, tp: R
            convert = convert[tp: R -> V](layer_norm) : (2, 4, 4) float32, tp: V
            linear = linear(convert, p_model_up_weight) : (2, 4, 4) float32, tp: S(2)
            gelu = gelu(linear) : (2, 4, 4) float32, tp: S(2)
            convert_1 = convert[tp: R -> V](p_model_down_bias) : (4,) float32, tp: V
            linear_1 = linear(gelu, p_model_down_weight, convert_1) : (2, 4, 4) float32, tp: P
            convert_2 = convert[tp: P -> R](linear_1) : (2, 4, 4) float32, tp: R
            add = add.Tensor(tensors_0, convert_2) : (2, 4, 4) float32, tp: R
            mul = mul.Tensor(add, add) : (2, 4, 4) float32, tp: R
            mean = mean(mul) : () float32, tp: R
            return [mean]
            """)

    def test_local_calls(self) -> None:
        before = self.stages["insert_collectives"]
        after = self.stages["localize_shapes"]
        changed = set(after.splitlines()) - set(before.splitlines())
        check_golden(
            self, "\n".join(sorted(changed)), """
            linear_1 = linear(gelu, p_model_down_weight, convert_1) : (2, 4, 4) float32, tp: P by row_bias
            """)

    def test_forward(self) -> None:
        check_golden(
            self, self.stages["split_forward"], """
            tensors_0 = placeholder : (2, 4, 4) float32
            p_model_norm_weight = placeholder : (4,) float32
            p_model_norm_bias = placeholder : (4,) float32
            p_model_up_weight = placeholder : (4, 4) float32
            p_model_down_weight = placeholder : (4, 4) float32
            p_model_down_bias = placeholder : (4,) float32
            native_layer_norm = native_layer_norm(tensors_0, [4], p_model_norm_weight, p_model_norm_bias, 1e-05) : (2, 4, 4) float32, (2, 4, 1) float32, (2, 4, 1) float32
            getitem = native_layer_norm[0] : (2, 4, 4) float32
            getitem_1 = native_layer_norm[1] : (2, 4, 1) float32
            getitem_2 = native_layer_norm[2] : (2, 4, 1) float32
            t = t(p_model_up_weight) : (4, 4) float32
            view_1 = reshape(getitem, [8, 4]) : (8, 4) float32
            mm = mm(view_1, t) : (8, 4) float32
            _unsafe_view = reshape(mm, [2, 4, 4]) : (2, 4, 4) float32
            gelu = gelu(_unsafe_view) : (2, 4, 4) float32
            t_1 = t(p_model_down_weight) : (4, 4) float32
            view_3 = reshape(gelu, [8, 4]) : (8, 4) float32
            mm_1 = mm(view_3, t_1) : (8, 4) float32
            _unsafe_view_1 = reshape(mm_1, [2, 4, 4]) : (2, 4, 4) float32
            view_4 = reshape(p_model_down_bias, [1, 1, -1]) : (1, 1, 4) float32
            mul = mul.Tensor(view_4, 1.0) : (1, 1, 4) float32
            add = add.Tensor(_unsafe_view_1, mul) : (2, 4, 4) float32
            all_reduce = all_reduce[sum, tp](add) : (2, 4, 4) float32
            wait_tensor = wait_tensor(all_reduce) : (2, 4, 4) float32
            add_1 = add.Tensor(tensors_0, wait_tensor) : (2, 4, 4) float32
            mul_1 = mul.Tensor(add_1, add_1) : (2, 4, 4) float32
            mean = mean(mul_1) : () float32
            return [mean, getitem, getitem_1, getitem_2, mm, gelu, add_1]
            """)

    def test_backward(self) -> None:
        check_golden(
            self, self.stages["split_backward"], """
            tensors_0 = placeholder : (2, 4, 4) float32
            p_model_norm_weight = placeholder : (4,) float32
            p_model_norm_bias = placeholder : (4,) float32
            p_model_up_weight = placeholder : (4, 4) float32
            p_model_down_weight = placeholder : (4, 4) float32
            getitem = placeholder : (2, 4, 4) float32
            getitem_1 = placeholder : (2, 4, 1) float32
            getitem_2 = placeholder : (2, 4, 1) float32
            mm = placeholder : (8, 4) float32
            gelu = placeholder : (2, 4, 4) float32
            add_1 = placeholder : (2, 4, 4) float32
            tangent_0 = placeholder : () float32
            view_1 = reshape(getitem, [8, 4]) : (8, 4) float32
            _unsafe_view = reshape(mm, [2, 4, 4]) : (2, 4, 4) float32
            view_3 = reshape(gelu, [8, 4]) : (8, 4) float32
            expand = expand(tangent_0, [2, 4, 4]) : (2, 4, 4) float32
            div = div.Scalar(expand, 32) : (2, 4, 4) float32
            mul_2 = mul.Tensor(div, add_1) : (2, 4, 4) float32
            mul_3 = mul.Tensor(div, add_1) : (2, 4, 4) float32
            add_2 = add.Tensor(mul_3, mul_2) : (2, 4, 4) float32
            sum_1 = sum.dim_IntList(add_2, [0, 1], True) : (1, 1, 4) float32
            mul_4 = mul.Tensor(sum_1, 1.0) : (1, 1, 4) float32
            view_5 = reshape(mul_4, [4]) : (4,) float32
            view_6 = reshape(add_2, [8, 4]) : (8, 4) float32
            t_2 = t(view_6) : (4, 8) float32
            mm_2 = mm(t_2, view_3) : (4, 4) float32
            mm_3 = mm(view_6, p_model_down_weight) : (8, 4) float32
            view_7 = reshape(mm_3, [2, 4, 4]) : (2, 4, 4) float32
            all_reduce_1 = all_reduce[sum, tp](view_5) : (4,) float32
            wait_tensor_1 = wait_tensor(all_reduce_1) : (4,) float32
            gelu_backward = gelu_backward(view_7, _unsafe_view) : (2, 4, 4) float32
            view_8 = reshape(gelu_backward, [8, 4]) : (8, 4) float32
            t_6 = t(view_8) : (4, 8) float32
            mm_4 = mm(t_6, view_1) : (4, 4) float32
            mm_5 = mm(view_8, p_model_up_weight) : (8, 4) float32
            view_9 = reshape(mm_5, [2, 4, 4]) : (2, 4, 4) float32
            all_reduce_2 = all_reduce[sum, tp](view_9) : (2, 4, 4) float32
            wait_tensor_2 = wait_tensor(all_reduce_2) : (2, 4, 4) float32
            native_layer_norm_backward = native_layer_norm_backward(wait_tensor_2, tensors_0, [4], getitem_1, getitem_2, p_model_norm_weight, p_model_norm_bias, [False, True, True]) : (4,) float32, (4,) float32
            getitem_4 = native_layer_norm_backward[1] : (4,) float32
            getitem_5 = native_layer_norm_backward[2] : (4,) float32
            return [None, getitem_4, getitem_5, mm_4, mm_2, wait_tensor_1]
            """)


class TestSequence(unittest.TestCase):

    @classmethod
    def setUpClass(cls) -> None:
        cls.stages = stages(SEQUENCE)

    def test_conversions(self) -> None:
        check_golden(
            self, self.stages["insert_collectives"], """
            tensors_0 = placeholder : (2, 2, 4) float32, tp: S(1)
            p_model_norm_weight = placeholder : (4,) float32, tp: R
            p_model_norm_bias = placeholder : (4,) float32, tp: R
            p_model_up_weight = placeholder : (4, 4) float32, tp: S(0)
            p_model_down_weight = placeholder : (4, 4) float32, tp: S(1)
            p_model_down_bias = placeholder : (4,) float32, tp: R
            convert = convert[tp: R -> V](p_model_norm_weight) : (4,) float32, tp: V
            convert_1 = convert[tp: R -> V](p_model_norm_bias) : (4,) float32, tp: V
            layer_norm = layer_norm(tensors_0, [4], convert, convert_1, 1e-05, False) : (2, 2, 4) float32, tp: S(1)
            convert_2 = convert[tp: S(1) -> V](layer_norm) : (2, 4, 4) float32, tp: V
            linear = linear(convert_2, p_model_up_weight) : (2, 4, 4) float32, tp: S(2)
            gelu = gelu(linear) : (2, 4, 4) float32, tp: S(2)
            convert_3 = convert[tp: R -> P](p_model_down_bias) : (4,) float32, tp: P
            linear_1 = linear(gelu, p_model_down_weight, convert_3) : (2, 4, 4) float32, tp: P
            convert_4 = convert[tp: P -> S(1)](linear_1) : (2, 2, 4) float32, tp: S(1)
            add = add.Tensor(tensors_0, convert_4) : (2, 2, 4) float32, tp: S(1)
            mul = mul.Tensor(add, add) : (2, 2, 4) float32, tp: S(1)
            mean = mean(mul) : () float32, tp: P
            convert_5 = convert[tp: P -> R](mean) : () float32, tp: R
            return [convert_5]
            """)

    def test_collectives(self) -> None:
        joint = self.stages["differentiate"]
        lines = [
            line for line in joint.splitlines()
            if "[" in line and ("tp]" in line)
        ]
        check_golden(
            self, "\n".join(lines), """
            all_gather_into_tensor = all_gather_into_tensor[2, tp](clone) : (4, 2, 4) float32
            reduce_scatter_tensor = reduce_scatter_tensor[sum, 2, tp](clone_2) : (2, 2, 4) float32
            all_reduce = all_reduce[sum, tp](div) : () float32
            all_gather_into_tensor_1 = all_gather_into_tensor[2, tp](clone_4) : (4, 2, 4) float32
            reduce_scatter_tensor_1 = reduce_scatter_tensor[sum, 2, tp](clone_6) : (2, 2, 4) float32
            all_reduce_1 = all_reduce[sum, tp](getitem_5) : (4,) float32
            all_reduce_2 = all_reduce[sum, tp](getitem_4) : (4,) float32
            """)


class TestData(unittest.TestCase):

    @classmethod
    def setUpClass(cls) -> None:
        cls.stages = stages(DATA)
        cls.files = dumped(DATA)

    def test_steps(self) -> None:
        check_golden(
            self, str(lowered(DATA)), """
            input:0 @ S(0): run convert R -> S(0) : (2, 4, 4) float32, constant
              gives input:0 @ S(0) : S(0)
            glue.0: run Perceptron
              param:norm.weight @ V moved from param:norm.weight
              param:norm.bias @ V moved from param:norm.bias
              param:up.weight @ V moved from param:up.weight
              param:down.weight @ V moved from param:down.weight
              param:down.bias @ V moved from param:down.bias
              gives glue.0/mean : P
            glue.0/mean @ R: run convert P -> R : () float32
              gives glue.0/mean @ R : R
            return glue.0/mean @ R
            """)

    def test_no_conversion_inside_the_block(self) -> None:
        joint = self.stages["differentiate"]
        self.assertNotIn("dp]", joint)

    def test_gathered_weights_are_not_saved(self) -> None:
        forward = self.stages["split_forward"]
        check_golden(
            self,
            forward.splitlines()[-1], """
            return [div, getitem, getitem_1, getitem_2, mm, gelu, add]
            """)

    def test_conversions_between_blocks(self) -> None:
        texts = [
            text for name, text in self.files.items()
            if "differentiate.convert" in name
        ]
        check_golden(
            self, "".join(texts), """
            value = placeholder : () float32
            tangent_0 = placeholder : () float32
            all_reduce = all_reduce[sum, dp](value) : () float32
            wait_tensor = wait_tensor(all_reduce) : () float32
            return [wait_tensor, tangent_0]
            value = placeholder : (2, 4, 4) float32
            slice_1 = slice.Tensor(value, 0, 0, 1) : (1, 4, 4) float32
            return [slice_1, None]
            """)


if __name__ == "__main__":
    unittest.main()
