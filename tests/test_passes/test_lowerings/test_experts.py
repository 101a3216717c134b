"""Experts on ranks against experts on one, with all kinds of routing."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from planner.rules import options
from planner.rules.numeric import call_of
from tests.test_passes.test_lowerings.calls import Call, check_lowerings

OP = torch.ops.scaletorch.experts.default
TOKENS, WIDTH, INNER, EXPERTS, K = 16, 8, 16, 8, 2


def real(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def experts(index: torch.Tensor,
            *,
            gate: str = "halves",
            transposed: bool = False,
            bias: bool = False,
            constants: Any = ()) -> Call:
    """A call whose tokens choose the experts in `index`."""
    torch.manual_seed(0)
    outer = INNER if gate == "none" else 2 * INNER
    gate_up = (WIDTH, outer) if transposed else (outer, WIDTH)
    down = (INNER, WIDTH) if transposed else (WIDTH, INNER)
    biases = (real(EXPERTS, outer), real(EXPERTS, WIDTH)) if bias else (None,
                                                                        None)
    weights = torch.rand(index.shape, dtype=torch.float64, requires_grad=True)
    return Call(op=OP,
                args=(real(len(index),
                           WIDTH), index, weights, real(EXPERTS, *gate_up),
                      real(EXPERTS, *down), *biases, "silu", gate, transposed,
                      list(constants)))


def anywhere() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, EXPERTS, (TOKENS, K))


class TestExperts(unittest.TestCase):
    """Every option on one axis, and all pairs that compose, on two."""

    def test_dispatch(self) -> None:
        check_lowerings(self, experts(anywhere()), "expert_dispatch")

    def test_owned(self) -> None:
        check_lowerings(self, experts(anywhere()), "expert_owned")

    def test_inner_dim(self) -> None:
        check_lowerings(self, experts(anywhere()), "expert_halves")

    def test_biases_of_transposed_matrices(self) -> None:
        for lowering in ("expert_dispatch", "expert_halves"):
            check_lowerings(self,
                            experts(anywhere(), transposed=True, bias=True),
                            lowering)

    def test_gates(self) -> None:
        for gate, constants in (("none", ()), ("clamped_pairs", (1.7, 0.4))):
            check_lowerings(
                self,
                experts(anywhere(), gate=gate, bias=True, constants=constants),
                "expert_dispatch")

    def test_gates_in_turns_need_no_exchange(self) -> None:
        call = experts(anywhere(), gate="pairs")
        found = {
            o.lowering
            for o in options(call_of(call.op, call.args, {})[0], 2)
        }
        self.assertEqual(found, {None, "expert_dispatch", "expert_owned"})


class TestImbalance(unittest.TestCase):

    def check(self, index: torch.Tensor) -> None:
        for lowering in ("expert_dispatch", "expert_owned"):
            check_lowerings(self, experts(index, bias=True), lowering)

    def test_all_to_one_expert(self) -> None:
        self.check(torch.full((TOKENS, K), 5))

    def test_a_rank_without_tokens(self) -> None:
        self.check(torch.arange(TOKENS * K).view(TOKENS, K) % 2)

    def test_each_rank_to_the_other(self) -> None:
        index = torch.zeros(TOKENS, 1, dtype=torch.int64)
        index[:TOKENS // 2] = EXPERTS - 1
        self.check(index)


if __name__ == "__main__":
    unittest.main()
