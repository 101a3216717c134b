"""Tables of moves over one axis, against prices one by one."""

from __future__ import annotations

import itertools
import unittest

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings

from planner.cluster import axis_link, load_cluster
from planner.cost.conversion import ConversionCost
from planner.ir.layout import PMAX, Layout, P, Placement, R, S, V
from planner.rules.registry import TensorSpec
from planner.search.axis_moves import AxisMoves
from planner.search.placed import placements, with_own

_SIZES = (2, 4, 3)


def _cost() -> ConversionCost:
    cluster = load_cluster("h100-sxm").resized(24)
    return ConversionCost([axis_link(cluster, _SIZES, a) for a in range(3)],
                          cluster.weakest(),
                          divided=2)


_PLACED = (R, V, P, PMAX, S(0), S(1), S(0, [2, 1, 1]), S(1, [2, 1]))


class TestAxisMoves(unittest.TestCase):

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(shape=st.lists(st.sampled_from([1, 6, 8, 24, 96]),
                          min_size=2,
                          max_size=3),
           requires_grad=st.booleans(),
           axis=st.integers(0, 2),
           others=st.tuples(*[st.sampled_from(_PLACED)] * 3))
    def test_as_one_by_one(self, shape: list[int], requires_grad: bool,
                           axis: int, others: Layout) -> None:
        cost = _cost()
        spec = TensorSpec(shape=tuple(shape),
                          dtype=torch.bfloat16,
                          requires_grad=requires_grad)
        forward_s, backward_s = AxisMoves(cost).times_s(spec, axis, others)
        every = placements(spec.ndim)
        for (i, made), (j, wanted) in itertools.product(enumerate(every),
                                                        repeat=2):
            expected = cost.times_s(spec, with_own(others, axis, made),
                                    with_own(others, axis, wanted))
            both_s = forward_s[i, j], backward_s[i, j]
            if np.inf in expected:
                self.assertIn(np.inf, both_s)
            else:
                self.assertEqual(both_s, expected, (made, wanted))


if __name__ == "__main__":
    unittest.main()


class TestCopies(unittest.TestCase):

    def test_only_dims_behind_others_are_copied(self) -> None:
        """As `passes.collectives` joins and cuts them."""
        cost = _cost()

        def time_s(shape: tuple[int, ...], made: Placement,
                   wanted: Placement) -> float:
            spec = TensorSpec(shape=shape, dtype=torch.bfloat16)
            return cost.times_s(spec, (made, R, R), (wanted, R, R))[0]

        for made, wanted in ((S(1), R), (P, S(1))):
            first_s = time_s(
                (96, 64),
                *(p if p == P or p == R else S(0) for p in (made, wanted)))
            self.assertEqual(time_s((1, 96, 64), made, wanted), first_s)
            self.assertGreater(time_s((2, 48, 64), made, wanted), first_s)
        # Of two dims that move each is copied, unless it is the first.
        first_s, one_s, both_s = (time_s(shape, made, S(2))
                                  for shape, made in (((96, 2, 64), S(0)),
                                                      ((1, 96, 128), S(1)),
                                                      ((2, 48, 128), S(1))))
        self.assertEqual(first_s, one_s)
        self.assertGreater(both_s, one_s)
