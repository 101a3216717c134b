"""Values of a block graph."""

from __future__ import annotations

import operator
import unittest

import torch
from torch import fx

from planner.ir.values import (Value, call_of, calls_of, consumers_of,
                               is_getitem, operands_of, outputs_of, value_of)
from planner.rules import Arg, TensorSpec

aten = torch.ops.aten


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(shape=shape, dtype=torch.float32)


class TestValues(unittest.TestCase):

    def setUp(self) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta = {"spec": spec(4, 6), "label": "x"}
        self.norm = self.graph.call_function(aten.max.dim, (self.x, 1))
        self.norm.meta = {"spec": (None, spec(4)), "label": "top"}
        self.pick = self.graph.call_function(operator.getitem, (self.norm, 1))
        self.cat = self.graph.call_function(aten.cat.default,
                                            ([self.x, self.x, self.pick], 0))
        self.cat.meta = {"spec": spec(8, 6), "label": "cat"}
        self.graph.output((self.cat, ))

    def test_picks_stand_for_their_source(self) -> None:
        self.assertTrue(is_getitem(self.pick))
        value = value_of(self.pick)
        self.assertEqual(value, Value(self.norm, 1))
        self.assertEqual(str(value), "top:1")
        self.assertEqual(value.spec, spec(4))
        self.assertEqual(str(value_of(self.x)), "x")

    def test_missing_outputs_are_skipped(self) -> None:
        self.assertEqual(outputs_of(self.norm), (Value(self.norm, 1), ))

    def test_operands_repeat_as_the_call_does(self) -> None:
        self.assertEqual(operands_of(self.cat),
                         (Value(self.x), Value(self.x), Value(self.norm, 1)))

    def test_calls_without_their_tensors(self) -> None:
        self.assertEqual(list(calls_of(self.graph)), [self.norm, self.cat])
        call = call_of(self.cat)
        self.assertEqual(call.args, ([Arg(0), Arg(1), Arg(2)], 0))
        self.assertEqual([s.shape for s in call.inputs], [(4, 6), (4, 6),
                                                          (4, )])
        self.assertEqual([s.shape for s in call.outputs], [(8, 6)])

    def test_consumers(self) -> None:
        self.assertEqual(
            consumers_of(self.graph)[Value(self.x)], [(self.norm, 0),
                                                      (self.cat, 0),
                                                      (self.cat, 1)])


if __name__ == "__main__":
    unittest.main()
