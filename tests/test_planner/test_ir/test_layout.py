"""Placements, their text, and the shapes they leave."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import unittest

from torch.distributed.tensor import Partial, Replicate, Shard

from planner.ir.layout import (PMAX, P, R, S, V, format_layout, local_shape,
                               parse_layout, parse_placement)

EVERY = (R, V, P, PMAX, S(0), S(11))


class TestPlacement(unittest.TestCase):

    def test_values_and_gradients_in_torchs_terms(self) -> None:
        rows = ((R, Replicate(), Replicate()), (V, Replicate(), Partial()),
                (P, Partial(), Replicate()), (S(1), Shard(1), Shard(1)))
        for placement, value, grad in rows:
            self.assertEqual(placement.value, value)
            self.assertEqual(placement.grad, grad)
        self.assertEqual(PMAX.value, Partial("max"))

    def test_equal_ones_are_one_object(self) -> None:
        for placement in (*EVERY, S(0, [2, 1, 1])):
            for same in (parse_placement(str(placement)),
                         copy.deepcopy(placement),
                         pickle.loads(pickle.dumps(placement)),
                         dataclasses.replace(placement)):
                self.assertIs(same, placement)
        self.assertIsNot(S(0), S(1))
        self.assertNotEqual(S(0), S(0, [2, 1, 1]))

    def test_text_and_back(self) -> None:
        for placement in EVERY:
            self.assertEqual(parse_placement(str(placement)), placement)
        self.assertEqual(parse_placement(" Pmin ").reduce, "min")
        self.assertEqual(format_layout((S(0), V)), "S(0) V")
        self.assertEqual(parse_layout("S(0) V"), (S(0), V))

    def test_what_is_no_placement(self) -> None:
        for text in ("", "S", "S(-1)", "Q", "Pavg", "R V"):
            with self.assertRaisesRegex(ValueError, "is no placement"):
                parse_placement(text)
        with self.assertRaisesRegex(ValueError, "counted from 0"):
            S(-1)

    def test_kinds(self) -> None:
        self.assertTrue(S(0).is_shard and P.is_partial)
        self.assertEqual([p for p in EVERY if p.is_replicated], [R, V])


class TestLocalShape(unittest.TestCase):

    def test_two_axes_may_cut_one_dim(self) -> None:
        self.assertEqual(local_shape((8, 6), (S(0), S(0)), (2, 4)), (1, 6))
        self.assertEqual(local_shape((8, 6), (S(1), R), (3, 2)), (8, 2))
        self.assertEqual(local_shape((), (P, V), (2, 2)), ())

    def test_uneven(self) -> None:
        with self.assertRaisesRegex(ValueError, "does not divide over 4"):
            local_shape((6, 6), (R, S(1)), (2, 4))
        with self.assertRaisesRegex(ValueError, "does not divide over 4"):
            local_shape((4, ), (S(0), S(0)), (2, 4))


if __name__ == "__main__":
    unittest.main()
