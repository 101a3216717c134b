"""discover() against the rules and on a custom operator."""

from __future__ import annotations

import unittest

import torch

from planner.rules import discover, options
from planner.rules.numeric import call_of
from tests.test_planner.test_rules.cases.case import ints, normal

aten = torch.ops.aten


@torch.library.custom_op("rules_test::scaled_rows", mutates_args=())
def scaled_rows(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Each row times its scale, then a running sum along the row."""
    return (x * scale[:, None]).cumsum(1)


@torch.library.custom_op("rules_test::largest", mutates_args=())
def largest(x: torch.Tensor) -> torch.Tensor:
    """The largest of each row; has no derivative."""
    return x.amax(1)


@scaled_rows.register_fake
def _(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _save(ctx: torch.autograd.function.FunctionCtx,
          inputs: tuple[torch.Tensor,
                        torch.Tensor], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: torch.autograd.function.FunctionCtx,
              grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, scale = ctx.saved_tensors
    later = grad.flip(1).cumsum(1).flip(1)
    return later * scale[:, None], (later * x).sum(1)


scaled_rows.register_autograd(_backward, setup_context=_save)


class TestDiscover(unittest.TestCase):

    def test_custom_operator(self) -> None:
        found = discover(torch.ops.rules_test.scaled_rows.default,
                         (normal(4, 6), normal(4)))
        self.assertEqual(sorted(map(str, found)),
                         ["P,V->P", "S(0),S(0)->S(0)", "V,P->P"])

    def test_finds_what_the_rules_say(self) -> None:
        calls = (
            (aten.mm.default, (normal(4, 6), normal(6, 2))),
            (aten.softmax.int, (normal(4, 6), 1)),
            (aten.embedding.default, (normal(6, 4), ints(6, 2))),
            (aten.layer_norm.default, (normal(2, 4), [4], normal(4))),
        )
        for op, args in calls:
            with self.subTest(str(op)):
                call, _ = call_of(op, args, {})
                plain = {
                    o
                    for o in options(call, 2)
                    if o.lowering is None and (o.is_sharded or any(
                        p.is_partial for p in o.inputs))
                }
                self.assertLessEqual(plain, set(discover(op, args)))

    def test_non_linear_operator_passes_no_partial_sums(self) -> None:
        found = discover(torch.exp, (normal(4, 6), ))
        self.assertEqual([str(o) for o in found], ["S(0)->S(0)", "S(1)->S(1)"])

    def test_forward_alone_is_not_enough(self) -> None:

        def detached_mean(x: torch.Tensor) -> torch.Tensor:
            """Rows share a gradient that only the whole batch knows."""
            return x + (x - x.detach()).mean(0, keepdim=True)

        found = discover(detached_mean, (normal(4, 6), ))
        self.assertNotIn("S(0)->S(0)", map(str, found))
        self.assertIn("S(1)->S(1)", map(str, found))

    def test_whole_numbers(self) -> None:
        found = discover(torch.bitwise_not, (ints(9, 4, 3), ))
        self.assertEqual([str(o) for o in found], ["S(0)->S(0)"])

    def test_operator_without_a_gradient(self) -> None:
        found = discover(torch.ops.rules_test.largest.default,
                         (normal(4, 6), ))
        self.assertEqual([str(o) for o in found], ["S(0)->S(0)"])

    def test_too_many_ways(self) -> None:
        with self.assertRaisesRegex(ValueError, "lie in 16 ways"):
            discover(torch.add, (normal(4, 6), normal(4, 6)), most=10)


if __name__ == "__main__":
    unittest.main()
