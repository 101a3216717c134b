from __future__ import annotations

import unittest

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from passes.differentiate import Joint
from passes.merge_collectives import merge_collectives
from passes.text import joint_text
from tests.golden import check_golden

aten = torch.ops.aten
ops = torch.ops._c10d_functional


class Builder:
    """A joint graph whose nodes carry fake values."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.mode = FakeTensorMode()
        self.operands = 0

    def operand(self, name: str, *shape: int) -> fx.Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty(shape)
        self.operands += 1
        return node

    def call(self, target: object, *args: object) -> fx.Node:
        node = self.graph.call_function(target, args)
        with self.mode:
            node.meta["val"] = target(
                *fx.map_arg(args, lambda n: n.meta["val"]))
        return node

    def all_reduce(self, value: fx.Node, axis: str = "tp") -> fx.Node:
        started = self.call(ops.all_reduce.default, value, "sum", axis)
        return self.call(ops.wait_tensor.default, started)

    def joint(self, *results: fx.Node) -> Joint:
        self.graph.output(list(results))
        return Joint(graph=self.graph,
                     operands=self.operands,
                     results=len(results),
                     tangents=())


def merged(joint: Joint) -> str:
    return joint_text(merge_collectives(joint).graph)


class TestMergeCollectives(unittest.TestCase):

    def test_equal_nodes_are_computed_once(self) -> None:
        b = Builder()
        x = b.operand("x", 4)
        both = [b.call(aten.mul.Tensor, x, 2) for _ in range(2)]
        other = b.call(aten.mul.Tensor, x, 2.0)
        check_golden(
            self, merged(b.joint(*both, other)), """
            x = placeholder : (4,) float32
            mul_tensor = mul.Tensor(x, 2) : (4,) float32
            mul_tensor_2 = mul.Tensor(x, 2.0) : (4,) float32
            return [mul_tensor, mul_tensor, mul_tensor_2]
            """)

    def test_random_calls_stay_apart(self) -> None:
        b = Builder()
        x = b.operand("x", 4)
        draws = [b.call(aten.bernoulli.p, x, 0.5) for _ in range(2)]
        joint = merge_collectives(b.joint(*draws))
        self.assertEqual(
            sum(n.op == "call_function" for n in joint.graph.nodes), 2)

    def test_small_independent_sums_become_one(self) -> None:
        b = Builder()
        x, y = b.operand("x", 4, 2), b.operand("y", 3)
        a = b.call(aten.exp.default, b.all_reduce(x))
        c = b.all_reduce(b.call(aten.exp.default, y))
        check_golden(
            self, merged(b.joint(a, c)), """
            x = placeholder : (4, 2) float32
            y = placeholder : (3,) float32
            exp_default_1 = exp(y) : (3,) float32
            reshape_default = reshape(x, [-1]) : (8,) float32
            reshape_default_1 = reshape(exp_default_1, [-1]) : (3,) float32
            cat_default = cat([reshape_default, reshape_default_1]) : (11,) float32
            all_reduce_default = all_reduce[sum, tp](cat_default) : (11,) float32
            wait_tensor_default = wait_tensor(all_reduce_default) : (11,) float32
            slice_tensor = slice.Tensor(wait_tensor_default, 0, 0, 8) : (8,) float32
            reshape_default_2 = reshape(slice_tensor, [4, 2]) : (4, 2) float32
            slice_tensor_1 = slice.Tensor(wait_tensor_default, 0, 8, 11) : (3,) float32
            reshape_default_3 = reshape(slice_tensor_1, [3]) : (3,) float32
            exp_default = exp(reshape_default_2) : (4, 2) float32
            return [exp_default, reshape_default_3]
            """)

    def test_dependent_sums_and_other_axes_stay(self) -> None:
        for axis, source in (("tp", "first"), ("dp", "x")):
            b = Builder()
            x = b.operand("x", 4)
            first = b.all_reduce(x)
            second = b.all_reduce(first if source == "first" else x, axis)
            text = merged(b.joint(first, second))
            self.assertEqual(text.count("all_reduce["), 2, text)

    def test_equal_sums_stay_for_they_may_differ_on_another_rank(self) -> None:
        b = Builder()
        x = b.operand("x", 1 << 16)
        text = merged(b.joint(b.all_reduce(x), b.all_reduce(x)))
        self.assertEqual(text.count("all_reduce["), 2, text)


if __name__ == "__main__":
    unittest.main()
