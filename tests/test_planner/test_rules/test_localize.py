"""Global sizes in arguments become local ones."""

from __future__ import annotations

import unittest
from typing import Any

import torch

from planner.rules import localize
from planner.rules.numeric import call_of
from tests.test_planner.test_rules.cases.case import normal

aten = torch.ops.aten


class TestLocalize(unittest.TestCase):

    def local(self, op: Any, args: tuple[Any, ...], *shapes: tuple[int, ...],
              **kwargs: Any) -> tuple[Any, ...]:
        call, _ = call_of(op, args, kwargs)
        return localize(call, shapes)[0]

    def test_whole_outputs_change_nothing(self) -> None:
        args = self.local(aten.view.default, (normal(4, 6), [-1]), (24, ))
        self.assertEqual(args[1], [-1])

    def test_shapes(self) -> None:
        args = self.local(aten.view.default, (normal(4, 6), [2, 2, -1]),
                          (1, 2, 6))
        self.assertEqual(args[1], [1, 2, 6])
        args = self.local(aten.full.default, ([4, 6], 1.0), (4, 3))
        self.assertEqual(args, ([4, 3], 1.0))
        args = self.local(aten.unflatten.int, (normal(4, 6), 1, [2, 3]),
                          (4, 1, 3))
        self.assertEqual(args[2], [1, 3])

    def test_repeats(self) -> None:
        args = self.local(aten.repeat.default, (normal(1, 4), [2, 6, 1]),
                          (2, 3, 4))
        self.assertEqual(args[1], [2, 3, 1])

    def test_hint_of_repeat_interleave(self) -> None:
        call, _ = call_of(aten.repeat_interleave.self_int,
                          (normal(4, 6), 2, 1), {"output_size": 12})
        self.assertEqual(localize(call, [(4, 6)])[1], {})

    def test_groups(self) -> None:
        args = (normal(2, 8, 3), 4)
        self.assertEqual(
            self.local(aten.group_norm.default, args, (2, 4, 3))[1], 2)
        self.assertEqual(
            self.local(aten.group_norm.default, args, (1, 8, 3))[1], 4)
        with self.assertRaisesRegex(ValueError, "4 groups of 8 channels.*1 "):
            self.local(aten.group_norm.default, args, (2, 1, 3))


if __name__ == "__main__":
    unittest.main()
