"""The experts operator against a loop over experts."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.ops.experts import Settings
from planner.ops.gates import ACTIVATIONS, gated

OP = torch.ops.scaletorch.experts
TOKENS, WIDTH, INNER, EXPERTS, K = 13, 8, 12, 4, 2


def arguments(dtype: torch.dtype = torch.float64,
              *,
              activation: str = "silu",
              gate: str = "halves",
              transposed: bool = False,
              bias: bool = False,
              constants: Any = ()) -> tuple[Any, ...]:
    """Of the operator; no token chooses the last expert."""
    torch.manual_seed(0)

    def real(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    outer = INNER if gate == "none" else 2 * INNER
    gate_up = (WIDTH, outer) if transposed else (outer, WIDTH)
    down = (INNER, WIDTH) if transposed else (WIDTH, INNER)
    biases = (real(EXPERTS, outer), real(EXPERTS, WIDTH)) if bias else (None,
                                                                        None)
    return (real(TOKENS, WIDTH), torch.randint(0, EXPERTS - 1, (TOKENS, K)),
            real(TOKENS, K), real(EXPERTS, *gate_up), real(EXPERTS, *down),
            *biases, activation, gate, transposed, list(constants))


def looped(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor,
           gate_up: torch.Tensor, down: torch.Tensor,
           gate_up_bias: torch.Tensor | None, down_bias: torch.Tensor | None,
           activation: str, gate: str, transposed: bool,
           constants: Any) -> torch.Tensor:
    out = torch.zeros_like(hidden)
    for expert in range(len(gate_up)):
        token, choice = torch.where(index == expert)
        first, second = gate_up[expert], down[expert]
        inner = hidden[token] @ (first if transposed else first.t())
        if gate_up_bias is not None:
            inner = inner + gate_up_bias[expert]
        found = gated(inner, activation, gate,
                      constants) @ (second if transposed else second.t())
        if down_bias is not None:
            found = found + down_bias[expert]
        out = out.index_add(0, token, found * weights[token, choice, None])
    return out


def gradients(out: torch.Tensor, args: tuple[Any, ...]) -> list[torch.Tensor]:
    torch.manual_seed(1)
    leaves = [
        x for x in args if isinstance(x, torch.Tensor) and x.requires_grad
    ]
    return list(torch.autograd.grad(out, leaves, torch.randn_like(out)))


class TestExperts(unittest.TestCase):

    def check(self, args: tuple[Any, ...], tolerance: float) -> None:
        found, wanted = OP(*args), looped(*args)
        pairs = zip([found, *gradients(found, args)],
                    [wanted, *gradients(wanted, args)],
                    strict=True)
        for one, other in pairs:
            self.assertEqual(one.dtype, other.dtype)
            torch.testing.assert_close(one,
                                       other,
                                       rtol=tolerance,
                                       atol=tolerance)

    def test_gates_and_layouts(self) -> None:
        for transposed in (False, True):
            for gate, constants in (("none", ()), ("halves", ()),
                                    ("pairs", ()), ("clamped_pairs", (1.7,
                                                                      0.4))):
                with self.subTest(gate=gate, transposed=transposed):
                    self.check(
                        arguments(gate=gate,
                                  transposed=transposed,
                                  bias=transposed,
                                  constants=constants), 1e-10)

    def test_activations(self) -> None:
        for activation in ACTIVATIONS:
            for gate in ("none", "halves"):
                with self.subTest(activation, gate=gate):
                    self.check(arguments(activation=activation, gate=gate),
                               1e-10)

    def test_kernels_for_groups(self) -> None:
        """Dtypes for which torch has one."""
        self.check(arguments(torch.float32), 1e-4)
        self.check(arguments(torch.bfloat16), 0.2)

    def test_no_tokens(self) -> None:
        hidden, index, weights, *rest = arguments(bias=True)
        args = (hidden[:0], index[:0], weights[:0], *rest)
        out = OP(*args)
        self.assertEqual(tuple(out.shape), (0, WIDTH))
        for grad in torch.autograd.grad(out.sum(), rest[:4]):
            self.assertEqual(float(grad.abs().max()), 0.0)

    def test_shapes_without_values(self) -> None:
        with FakeTensorMode() as mode:
            args = [
                mode.from_tensor(x) if isinstance(x, torch.Tensor) else x
                for x in arguments(bias=True)
            ]
            out = OP(*args)
            self.assertEqual(tuple(out.shape), (TOKENS, WIDTH))

    def test_compiled(self) -> None:
        args = arguments()
        run = torch.compile(lambda *xs: OP(*xs).square().sum(),
                            backend="aot_eager",
                            fullgraph=True)
        self.assertAlmostEqual(float(run(*args).detach()),
                               float(OP(*args).square().sum().detach()), 8)

    def test_unknown_settings(self) -> None:
        with self.assertRaisesRegex(ValueError, "no gate 'both'; known are"):
            Settings(gate="both")
        with self.assertRaisesRegex(ValueError, "no activation 'sine'; known"):
            Settings(activation="sine")


if __name__ == "__main__":
    unittest.main()
