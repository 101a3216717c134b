"""Random calls: alike where replicated, apart where sharded."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.fx import traceback as fx_traceback
from torch.nn import functional as F

from passes.clean import changes_operands
from passes.differentiate import Joint
from passes.localize_shapes import draws
from passes.split_backward import split_backward
from planner.ir.layout import S
from planner.ir.program import BlockClass
from planner.ir.values import Value, call_of
from planner.rules import OpCall, Option, options
from tests.test_passes.blocks import block_of, draws_of, joint_of, run_split

Function = Callable[[torch.Tensor], torch.Tensor]


def attention(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


DRAWS: dict[str, Function] = {
    "dropout":
    lambda x: F.dropout(x, 0.5),
    "alpha_dropout":
    lambda x: F.alpha_dropout(x, 0.5, True),
    "dropout1d":
    lambda x: F.dropout1d(x[0], 0.5),
    "dropout2d":
    lambda x: F.dropout2d(x, 0.5),
    "bernoulli":
    lambda x: x * torch.bernoulli(x.sigmoid()),
    "rand_like":
    lambda x: x * torch.rand_like(x),
    "randn_like":
    lambda x: x + torch.randn_like(x),
    "randint":
    lambda x: x * torch.randint(0, 99, (2, 4, 4, 4)),
    "rand":
    lambda x: x * torch.rand(2, 4, 4, 4),
    "normal":
    lambda x: x + torch.normal(x.detach(), 1.0),
    "multinomial":
    lambda x: x[0, 0] * torch.multinomial(x[0, 0].softmax(-1), 4).float(),
    "rrelu":
    lambda x: F.rrelu(x, training=True),
    "attention":
    attention,
}

SHARDED = ("dropout", "bernoulli", "rand_like", "randn_like", "rrelu",
           "attention")
"""Those that can draw for a shard of the samples."""


class Layers(nn.Module):

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, num_layers=2, dropout=dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0].sum()


def squared(function: Function) -> Function:
    """A loss whose gradient shows what was drawn."""
    return lambda x: function(x).square().sum()


def by_sample(call: OpCall) -> Option:
    """Samples sharded where the operator can, and everything from there."""
    for option in options(call, 2):
        if all(p == S(0) for p in option.inputs):
            return option
    return options(call, 2)[0]


def image() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 4, 4, 4, requires_grad=True)


@functools.cache
def block(name: str) -> BlockClass:
    return block_of(squared(DRAWS[name]), image())


@functools.cache
def joint(name: str, rank: int, sharded: bool) -> Joint:
    cls = block(name)
    if not sharded:
        return joint_of(cls, rank=rank)
    hub = {Value(cls.placeholders[0]).label: (S(0), )}
    return joint_of(cls, rank=rank, choose=by_sample, hubs=hub)


class TestStreams(unittest.TestCase):

    def gradient(self,
                 name: str,
                 *,
                 seed: int,
                 rank: int = 0,
                 sharded: bool = False,
                 again: bool = False) -> torch.Tensor:
        x = image().detach()[:1 if sharded else 2]
        split = split_backward(joint(name, rank, sharded),
                               recompute=lambda n: again)
        _, (grad, ) = run_split(split, [x], seed=seed, rank=rank)
        assert grad is not None
        return grad

    def test_replicated_ranks_draw_the_same(self) -> None:
        for name in DRAWS:
            with self.subTest(name):
                torch.manual_seed(1)
                one = self.gradient(name, seed=5)
                torch.manual_seed(2)
                other = self.gradient(name, seed=5, rank=1)
                torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_another_seed_draws_other_numbers(self) -> None:
        for name in DRAWS:
            with self.subTest(name):
                one, other = (self.gradient(name, seed=s) for s in (5, 6))
                self.assertFalse(torch.equal(one, other))

    def test_sharded_ranks_draw_apart(self) -> None:
        for name in SHARDED:
            with self.subTest(name):
                one, other = (self.gradient(name, seed=5, rank=r, sharded=True)
                              for r in range(2))
                self.assertEqual(one.shape, (1, 4, 4, 4))
                self.assertFalse(torch.equal(one, other))

    def test_recomputation_draws_the_same(self) -> None:
        for name in DRAWS:
            with self.subTest(name):
                one, other = (self.gradient(name, seed=5, again=again)
                              for again in (False, True))
                torch.testing.assert_close(one, other)

    def test_torchs_own_stream_is_left_alone(self) -> None:
        torch.manual_seed(3)
        state = torch.get_rng_state()
        split = split_backward(joint("dropout", 0, False))
        torch.set_rng_state(state)
        run_split(split, [image().detach()])
        torch.manual_seed(3)
        self.assertTrue(torch.equal(torch.get_rng_state(), state))


class TestMarks(unittest.TestCase):

    def check(self, graph: fx.Graph) -> None:
        found = draws_of(graph)
        self.assertGreaterEqual(len(found), 1)
        for node in found:
            self.assertIsNotNone(node.meta["custom"]["random"], node)
        self.assertFalse(any(map(changes_operands, graph.nodes)))

    def test_every_draw_has_a_stream(self) -> None:
        for name in DRAWS:
            with self.subTest(name):
                self.check(joint(name, 0, False).graph)

    def test_dropout_between_recurrent_layers(self) -> None:
        x = torch.randn(3, 2, 4, requires_grad=True)
        self.check(joint_of(block_of(Layers(0.5), x)).graph)

    def test_notes_of_others_are_no_stream(self) -> None:
        """Torch's notes are global and may be left behind."""
        x = torch.randn(1, 2, 4, 8, requires_grad=True)

        def attention(x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

        with fx_traceback.annotate({"random": ("another's", ("gone", ))}):
            graph = joint_of(block_of(attention, x)).graph
        self.assertGreaterEqual(len(draws_of(graph)), 1)
        for node in draws_of(graph):
            self.assertIsNone(node.meta["custom"]["random"], node)

    def drawing(self, function: Callable[..., torch.Tensor],
                x: torch.Tensor) -> bool:
        return any(draws(call_of(n)) for n in block_of(function, x).calls)

    def test_what_draws_nothing_has_no_stream(self) -> None:
        x = torch.randn(3, 2, 4, requires_grad=True)
        self.assertTrue(self.drawing(Layers(0.5), x))
        self.assertFalse(self.drawing(Layers(0.0), x))
        self.assertFalse(self.drawing(Layers(0.5).eval(), x))
        whole = squared(lambda q: F.scaled_dot_product_attention(q, q, q))
        self.assertFalse(self.drawing(whole, image()))
        self.assertTrue(self.drawing(squared(attention), image()))


if __name__ == "__main__":
    unittest.main()
