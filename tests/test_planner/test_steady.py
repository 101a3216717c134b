"""Draws that depend on nothing but the operator."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import torch
from torch.nn import functional as F

from planner.seeded import seeded
from planner.steady import STEADY, steady_draws

_X = torch.tensor([[0.5, -2.0, 3.0, 0.25], [1.0, 2.0, -1.0, 4.0]])

DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.25),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.25, True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "exponential": lambda x: torch.empty_like(x).exponential_(2.0),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "like": lambda x: torch.rand_like(x) + torch.randn_like(x),
    "multinomial": lambda x: torch.multinomial(x.softmax(-1), 2),
    "replaced": lambda x: torch.multinomial(x.softmax(-1), 9, True),
    "normal": lambda x: torch.normal(x, 0.5),
    "normal_of": lambda x: torch.normal(0.0, 1.0, (3, )),
    "normal_": lambda x: torch.empty_like(x).normal_(3.0),
    "rand": lambda x: torch.rand(3, dtype=torch.float64),
    "randint": lambda x: torch.randint(3, 9, (3, )),
    "randint_below": lambda x: torch.randint(9, (3, )),
    "random": lambda x: torch.empty(3).random_(2, 9),
    "randperm": lambda x: torch.randperm(5),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "uniform": lambda x: torch.empty(3).uniform_(2.0, 4.0),
}


class TestSteady(unittest.TestCase):

    def test_nothing_depends_on_the_seed(self) -> None:
        for name, draw in DRAWS.items():
            with self.subTest(name):
                torch.manual_seed(0)
                plain = draw(_X)
                with steady_draws():
                    first, second = draw(_X), draw(_X)
                self.assertTrue(torch.equal(first, second))
                self.assertEqual((first.shape, first.dtype),
                                 (plain.shape, plain.dtype))

    def test_values(self) -> None:
        with steady_draws():
            torch.testing.assert_close(F.dropout(_X, 0.25), _X / 0.75)
            self.assertEqual(
                torch.empty(2).uniform_(2.0, 4.0).tolist(), [3.0, 3.0])
            self.assertEqual(torch.randint(3, 9, (2, )).tolist(), [3, 3])
            self.assertEqual(
                torch.normal(_X, 0.5).tolist(), (_X + 0.5).tolist())
            self.assertEqual(
                torch.multinomial(_X.softmax(-1), 2).tolist(),
                [[2, 0], [3, 1]])

    def test_gradients(self) -> None:
        x = _X.clone().requires_grad_()
        with steady_draws():
            F.dropout(x, 0.75).sum().backward()
        self.assertEqual(x.grad.tolist(), torch.full_like(_X, 4.0).tolist())

    def test_as_a_seed(self) -> None:
        with seeded(STEADY, torch.device("cpu")):
            self.assertEqual(torch.rand(2).tolist(), [0.5, 0.5])


if __name__ == "__main__":
    unittest.main()
