"""Splitting into forward, backward and weight gradients changes nothing."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from torch import fx
from torch.nn import functional as F

from passes.differentiate import Joint
from passes.split_backward import SplitBlock, is_view, split_backward
from passes.split_weights import split_weights
from passes.text import joint_text
from tests.test_passes.blocks import block_of, joint_of, run_split

Tensors = tuple[torch.Tensor, ...]


def two_layers(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor,
               bias: torch.Tensor) -> torch.Tensor:
    hidden = F.gelu(F.linear(F.layer_norm(x, (4, )), up))
    return (x + F.linear(hidden, down, bias)).square().sum()


def operands() -> Tensors:
    torch.manual_seed(0)
    shapes = ((2, 3, 4), (8, 4), (4, 8), (4, ))
    return tuple(
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in shapes)


def eager(function: Callable[..., torch.Tensor],
          given: Tensors) -> list[torch.Tensor]:
    return [*torch.autograd.grad(function(*given), given)]


class TestSplit(unittest.TestCase):

    @classmethod
    def setUpClass(cls) -> None:
        cls.given = operands()
        cls.joint: Joint = joint_of(block_of(two_layers, *cls.given))
        cls.wanted = eager(two_layers, cls.given)

    def check(self, split: SplitBlock) -> None:
        plain = [x.detach() for x in self.given]
        (loss, ), grads = run_split(split, plain)
        torch.testing.assert_close(loss, two_layers(*plain))
        for grad, wanted in zip(grads, self.wanted, strict=True):
            torch.testing.assert_close(grad, wanted)

    def test_two_parts(self) -> None:
        self.check(split_backward(self.joint))

    def test_three_parts(self) -> None:
        split = split_weights(split_backward(self.joint), (1, 2, 3))
        assert split.backward is not None and split.weight_gradient is not None
        self.check(split)
        now = split.backward.output_node().args[0][:4]
        later = split.weight_gradient.output_node().args[0]
        self.assertEqual([g is None for g in now], [False, True, True, True])
        self.assertEqual([g is None for g in later],
                         [True, False, False, False])

    def test_products_of_weights_are_in_the_third_part(self) -> None:
        split = split_weights(split_backward(self.joint), (1, 2, 3))
        counts = [
            joint_text(g).count(" = mm(")
            for g in (split.forward, split.backward, split.weight_gradient)
        ]
        self.assertEqual(counts, [1, 2, 2])

    def test_any_choice_of_weights(self) -> None:
        for weights in ((), (0, ), (2, ), (0, 1, 2, 3), (7, )):
            with self.subTest(weights=weights):
                self.check(split_weights(split_backward(self.joint), weights))

    def test_recomputation(self) -> None:

        def all_but(name: str) -> Callable[[fx.Node], bool]:
            return lambda node: name not in node.name

        for recompute in (lambda node: True, all_but("mm"), all_but("gelu")):
            split = split_backward(self.joint, recompute=recompute)
            self.check(split)
            self.check(split_weights(split, (1, 2)))

    def test_everything_recomputed_saves_operands_only(self) -> None:
        split = split_backward(self.joint, recompute=lambda node: True)
        out = split.forward.output_node().args[0]
        self.assertEqual(len(out), split.results)
        self.assertEqual(split.saved_operands, (0, 1, 2, 3))

    def test_no_view_is_saved(self) -> None:
        split = split_backward(self.joint)
        saved = split.forward.output_node().args[0][split.results:]
        self.assertFalse(any(map(is_view, saved)))

    def test_the_joint_graph_stays(self) -> None:
        before = joint_text(self.joint.graph)
        split_weights(split_backward(self.joint), (1, ))
        self.assertEqual(joint_text(self.joint.graph), before)


class TestInPlace(unittest.TestCase):
    """What operators write in place survives the recording."""

    def compared(self, function: Callable[..., torch.Tensor], *given:
                 torch.Tensor) -> None:
        joint = joint_of(block_of(function, *given))
        for node in joint.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            self.assertFalse(schema is not None and schema.is_mutable, node)
        wanted = eager(function, given)
        plain = [x.detach() for x in given]
        for recompute in (lambda n: False, lambda n: True,
                          lambda n: n.name.startswith("div")):
            split = split_backward(joint, recompute=recompute)
            (loss, ), grads = run_split(split, plain)
            torch.testing.assert_close(loss, function(*plain))
            for grad, want in zip(grads, wanted, strict=True):
                torch.testing.assert_close(grad, want)

    def test_filled_and_added(self) -> None:

        def function(x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y[:, 0].fill_(1.0)
            y.add_(x).mul_(3.0)
            y.div_(2.0)
            return y.sum()

        self.compared(function, *operands()[1:2])

    def test_index_put(self) -> None:

        def function(x: torch.Tensor) -> torch.Tensor:
            y = torch.zeros_like(x)
            y.index_put_((torch.arange(3) % 2, ), x[:3], accumulate=True)
            y.index_copy_(0, torch.arange(1, 2), x[4:5].exp())
            return (y * x).sum()

        self.compared(function, *operands()[1:2])

    def test_masked_fill_and_scatter(self) -> None:

        def function(x: torch.Tensor) -> torch.Tensor:
            y = (x * 3).masked_fill_(x > 0, 0.5)
            y.scatter_add_(0, torch.zeros(1, 4, dtype=torch.long), x[:1])
            return (y * y).sum()

        self.compared(function, *operands()[1:2])


if __name__ == "__main__":
    unittest.main()
