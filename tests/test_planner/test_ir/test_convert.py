"""Which moves a conversion takes, and in which order."""

from __future__ import annotations

import itertools
import unittest

from planner.ir.convert import conversion_steps, gradient_move, move
from planner.ir.layout import PMAX, Layout, P, Placement, R, S, V
from tests.golden import check_golden

EVERY = (R, V, P, S(0), S(1))


def kinds(source: Layout,
          target: Layout,
          differentiable: bool = True) -> list[tuple[int, str, str]] | None:
    steps = conversion_steps(source, target, differentiable=differentiable)
    if steps is None:
        return None
    return [(s.axis, s.forward.kind, s.backward.kind) for s in steps]


class TestMove(unittest.TestCase):

    def test_every_pair(self) -> None:
        lines = []
        for source, target in itertools.product(EVERY, repeat=2):
            if source != target:
                ahead, back = move(source,
                                   target), gradient_move(source, target)
                assert ahead is not None and back is not None
                lines.append(f"{source} -> {target}: {ahead.kind}, "
                             f"back {back.kind}")
        check_golden(
            self, "\n".join(lines), """
            R -> V: none, back all_reduce
            R -> P: mask, back none
            R -> S(0): slice, back all_gather
            R -> S(1): slice, back all_gather
            V -> R: none, back mask
            V -> P: mask, back mask
            V -> S(0): slice, back pad
            V -> S(1): slice, back pad
            P -> R: all_reduce, back none
            P -> V: all_reduce, back all_reduce
            P -> S(0): reduce_scatter, back all_gather
            P -> S(1): reduce_scatter, back all_gather
            S(0) -> R: all_gather, back slice
            S(0) -> V: all_gather, back reduce_scatter
            S(0) -> P: pad, back slice
            S(0) -> S(1): all_to_all, back all_to_all
            S(1) -> R: all_gather, back slice
            S(1) -> V: all_gather, back reduce_scatter
            S(1) -> P: pad, back slice
            S(1) -> S(0): all_to_all, back all_to_all
            """)

    def test_extrema_are_only_reduced(self) -> None:
        found = move(PMAX, R)
        assert found is not None
        self.assertEqual((found.kind, found.reduce), ("all_reduce", "max"))
        for target in (P, S(0)):
            self.assertIsNone(move(PMAX, target))
        for source in (R, P, S(0)):
            self.assertIsNone(move(source, PMAX))

    def test_gradients_undo_the_value(self) -> None:
        """The adjoint goes the other way between the other placements."""
        dual: dict[Placement, Placement] = {R: R, V: P, P: R}
        for source, target in itertools.product(EVERY, repeat=2):
            wanted = move(dual.get(target, target), dual.get(source, source))
            self.assertEqual(gradient_move(source, target), wanted)


class TestSteps(unittest.TestCase):

    def test_nothing_to_do(self) -> None:
        self.assertEqual(kinds((R, S(0)), (R, S(0))), [])
        self.assertEqual(kinds((R, ), (V, ), differentiable=False), [])
        self.assertEqual(kinds((R, ), (V, )), [(0, "none", "all_reduce")])

    def test_inner_axis_lets_go_first(self) -> None:
        self.assertEqual(kinds((S(0), S(0)),
                               (R, R)), [(1, "all_gather", "slice"),
                                         (0, "all_gather", "slice")])
        self.assertEqual(kinds((R, R),
                               (S(0), S(0))), [(0, "slice", "all_gather"),
                                               (1, "slice", "all_gather")])

    def test_outer_axis_under_an_inner_one(self) -> None:
        self.assertIsNone(kinds((S(0), S(0)), (R, S(0))))
        self.assertIsNone(kinds((R, S(0)), (S(0), S(0))))

    def test_slices_come_before_gathers(self) -> None:
        self.assertEqual(kinds((S(0), R),
                               (R, S(1))), [(1, "slice", "all_gather"),
                                            (0, "all_gather", "slice")])

    def test_steps_start_where_the_last_one_ended(self) -> None:
        for source, target in itertools.product(itertools.product(EVERY,
                                                                  repeat=2),
                                                repeat=2):
            steps = conversion_steps(source, target, differentiable=True)
            current = list(source)
            for step in steps or ():
                self.assertEqual(tuple(current), step.before)
                self.assertEqual(current[step.axis], step.source)
                current[step.axis] = step.target
            if steps is not None:
                self.assertEqual(tuple(current), target)


if __name__ == "__main__":
    unittest.main()
