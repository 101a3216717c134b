from __future__ import annotations

import unittest
from typing import Any

import torch

from planner.cost.saved import saved
from tests.test_planner.test_cost.calls import call_of

aten = torch.ops.aten


def _rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def _kept_by_autograd(target: Any,
                      args: list[Any]) -> tuple[set[int], set[int], int]:
    """Positions of inputs and outputs that autograd saves; other bytes."""
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = target(*args)
    leaves = torch.utils._pytree.tree_leaves
    inputs = [a for a in leaves(args) if isinstance(a, torch.Tensor)]
    outputs = leaves(result)
    sets = tuple({
        i
        for i, t in enumerate(ts)
        if kept.get(t.untyped_storage().data_ptr()) is not None
    } for ts in (inputs, outputs))
    named = {t.untyped_storage().data_ptr() for t in inputs + outputs}
    extra = sum(t.numel() * t.element_size() for p, t in kept.items()
                if p not in named)
    return sets[0], sets[1], extra


def _calls() -> dict[str, list[Any]]:
    x, y, ids = _rand(4, 6), _rand(4, 6), torch.tensor([[0, 2], [1, 1]])
    mask = torch.randn(4, 6) > 0
    q = _rand(2, 3, 5, 8)
    unary = ("relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "reciprocal",
             "silu", "sin", "cos", "log", "abs", "neg", "erf", "mish",
             "hardswish", "expm1", "log1p", "square", "clone", "t", "sum",
             "mean", "glu", "prod")
    calls = {name: [getattr(aten, name).default, x] for name in unary}
    calls |= {
        "gelu": [aten.gelu.default, x],
        "softmax": [aten.softmax.int, x, -1],
        "log_softmax": [aten.log_softmax.int, x, -1],
        "add": [aten.add.Tensor, x, y],
        "sub": [aten.sub.Tensor, x, y],
        "mul": [aten.mul.Tensor, x, y],
        "mul by a constant tensor": [aten.mul.Tensor, x,
                                     y.detach()],
        "mul by a number": [aten.mul.Tensor, x, 2.0],
        "div": [aten.div.Tensor, x, y],
        "div by a number": [aten.div.Tensor, x, 2.0],
        "div by a constant tensor": [aten.div.Tensor, x,
                                     y.detach()],
        "pow": [aten.pow.Tensor_Scalar, x, 3.0],
        "clamp": [aten.clamp.default, x, -1.0, 1.0],
        "amax": [aten.amax.default, x, [-1]],
        "max": [aten.max.dim, x, -1],
        "logsumexp": [aten.logsumexp.default, x, [-1]],
        "cat": [aten.cat.default, [x, y]],
        "where": [aten.where.self, mask, x, y],
        "masked_fill": [aten.masked_fill.Scalar, x, mask, 0.0],
        "embedding": [aten.embedding.default, x, ids],
        "index_select": [aten.index_select.default, x, 0, ids[0]],
        "gather": [aten.gather.default, x, 0, ids],
        "index": [aten.index.Tensor, x, [ids[0]]],
        "slice": [aten.slice.Tensor, x, 0, 0, 2],
        "linear": [aten.linear.default, x,
                   _rand(3, 6), _rand(3)],
        "linear of a frozen weight":
        [aten.linear.default, x,
         torch.randn(3, 6),
         _rand(3)],
        "linear of the data": [aten.linear.default,
                               x.detach(),
                               _rand(3, 6)],
        "mm": [aten.mm.default, x, _rand(6, 3)],
        "mm with itself": [aten.mm.default, x, x.t()],
        "addmm": [aten.addmm.default,
                  _rand(3), x, _rand(6, 3)],
        "bmm": [aten.bmm.default,
                _rand(2, 3, 4),
                _rand(2, 4, 5)],
        "conv2d": [aten.conv2d.default,
                   _rand(1, 2, 5, 5),
                   _rand(3, 2, 3, 3)],
        "layer_norm": [aten.layer_norm.default, x, [6],
                       _rand(6),
                       _rand(6)],
        "layer_norm without weights": [aten.layer_norm.default, x, [6]],
        "group_norm":
        [aten.group_norm.default,
         _rand(2, 4, 3), 2,
         _rand(4),
         _rand(4)],
        "native_layer_norm":
        [aten.native_layer_norm.default, x, [6],
         _rand(6),
         _rand(6), 1e-5],
        "native_dropout": [aten.native_dropout.default, x, 0.5, True],
        "max_pool2d":
        [aten.max_pool2d_with_indices.default,
         _rand(1, 2, 4, 4), [2, 2]],
        "cross_entropy": [aten.cross_entropy_loss.default, x,
                          ids.flatten()],
        "sdpa": [aten.scaled_dot_product_attention.default, q, q * 1, q * 2],
    }
    return calls


class TestAgainstAutograd(unittest.TestCase):

    # PyTorch keeps more than its backward needs.
    _KEEPS_MORE = {"max_pool2d": {0}}

    def test_saved_tensors(self) -> None:
        for name, (target, *args) in _calls().items():
            inputs, outputs, extra = _kept_by_autograd(target, args)
            found = saved(call_of(target, *args))
            with self.subTest(name):
                self.assertEqual(
                    (set(found.inputs), set(found.outputs)),
                    (inputs - self._KEEPS_MORE.get(name, set()), outputs))
                self.assertEqual(found.extra_bytes, extra)


class TestByHand(unittest.TestCase):

    def test_nothing_without_gradients(self) -> None:
        call = call_of(aten.gelu.default, torch.randn(4))
        self.assertEqual(saved(call).size_bytes(call), 0)

    def test_linear_keeps_input_and_weight(self) -> None:
        call = call_of(aten.linear.default, _rand(4, 6), _rand(3, 6), _rand(3))
        self.assertEqual(saved(call).size_bytes(call), (24 + 18) * 4)

    def test_dropout_keeps_a_byte_per_element(self) -> None:
        x = _rand(4, 6)
        for p, train, kept in ((0.5, True, 24), (0.0, True, 0), (0.5, False,
                                                                 0)):
            call = call_of(aten.dropout.default, x, p, train)
            with self.subTest(p=p, train=train):
                self.assertEqual(saved(call).extra_bytes, kept)

    def test_rms_norm_keeps_one_number_a_row(self) -> None:
        call = call_of(aten.rms_norm.default, _rand(4, 6), [6], _rand(6))
        self.assertEqual(saved(call).inputs, (0, 1))
        self.assertEqual(saved(call).extra_bytes, 16)

    def test_batch_norm(self) -> None:
        call = call_of(aten.batch_norm.default, _rand(4, 6), _rand(6),
                       _rand(6), None, None, True, 0.1, 1e-5, False)
        self.assertEqual(saved(call).inputs, (0, 1))
        self.assertEqual(saved(call).extra_bytes, 2 * 6 * 4)


if __name__ == "__main__":
    unittest.main()
