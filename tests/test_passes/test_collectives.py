"""Every conversion, on simulated ranks: its value and its gradient."""

from __future__ import annotations

import itertools
import unittest
from dataclasses import dataclass
from unittest import mock

import torch

from passes.collectives import AxisRef, convert
from planner.ir.convert import conversion_steps, gradient_move, move
from planner.ir.layout import PMAX, Layout, P, Placement, R, S, V
from planner.ir.mesh import MeshSpec
from tests.test_passes.simulated import (gathered, gradient_layout, on_mesh,
                                         same, spread)

ONE = MeshSpec(("x", ), (2, ))
WIDE = MeshSpec(("x", ), (4, ))
TWO = MeshSpec(("x", "y"), (2, 2))
PLACEMENTS = (R, V, P, S(0), S(1))
BY_PARTS = (S(0, (1, 1)), S(0, (3, 1)), S(1, (1, 2, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A value that goes from one layout to another."""

    value: torch.Tensor
    source: Layout
    target: Layout
    transposed: bool = False

    def run(self, rank: int, axes: tuple[AxisRef, ...],
            mesh: MeshSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
        """This rank's part of the result and of the gradient."""
        differentiable = self.value.is_floating_point()
        x = spread(self.value, self.source, mesh)[rank]
        if self.transposed:
            x = x.t().contiguous().t()
        x.requires_grad_(differentiable)
        steps = conversion_steps(self.source,
                                 self.target,
                                 differentiable=differentiable)
        assert steps is not None
        y = x
        for step in steps:
            y = convert(y, step.source, step.target, axes[step.axis])
        if not differentiable:
            return y, None
        back = gradient_layout(self.target)
        tangent = spread(self.tangent, back, mesh)[rank]
        if self.transposed:
            tangent = tangent.t().contiguous().t()
        grad, = torch.autograd.grad(y, x, tangent)
        return y.detach(), grad

    @property
    def tangent(self) -> torch.Tensor:
        return torch.sin(
            torch.arange(self.value.numel(),
                         dtype=self.value.dtype)).reshape(self.value.shape)


def check(test: unittest.TestCase, cases: list[Case], mesh: MeshSpec) -> None:
    found = on_mesh(
        mesh,
        lambda rank, groups: [c.run(rank, groups.axes, mesh) for c in cases])
    for number, case in enumerate(cases):
        parts = [ranks[number] for ranks in found]
        with test.subTest(f"{case.source} -> {case.target} "
                          f"{case.value.dtype} {case.transposed}"):
            values = [y for y, _ in parts]
            test.assertTrue(
                same(gathered(values, case.target, mesh), case.value))
            grads = [g for _, g in parts if g is not None]
            if grads:
                back = gradient_layout(case.source)
                test.assertTrue(same(gathered(grads, back, mesh),
                                     case.tangent))


def matrix(rows: int = 4, columns: int = 8) -> torch.Tensor:
    return torch.arange(rows * columns, dtype=torch.float64).reshape(
        rows, columns) / 7


def reachable(layouts: list[Layout],
              differentiable: bool = True) -> list[tuple[Layout, Layout]]:
    return [
        (s, t) for s, t in itertools.product(layouts, repeat=2)
        if conversion_steps(s, t, differentiable=differentiable) is not None
    ]


class TestOneAxis(unittest.TestCase):

    def test_every_pair(self) -> None:
        pairs = reachable([(p, ) for p in PLACEMENTS])
        self.assertEqual(len(pairs), len(PLACEMENTS)**2)
        for mesh in (ONE, WIDE):
            check(self, [
                Case(value=matrix(), source=s, target=t, transposed=transposed)
                for s, t in pairs for transposed in (False, True)
            ], mesh)

    def test_integers_and_booleans(self) -> None:
        values = [matrix().long(), matrix() > 2]
        shown = [(R, ), (S(0), ), (S(1), )]
        cases = [
            Case(value=v, source=s, target=t) for v in values
            for s, t in reachable(shown, differentiable=False)
        ]
        cases += [Case(value=values[0], source=(P, ), target=t) for t in shown]
        check(self, cases, ONE)

    def test_maxima_and_minima(self) -> None:
        value = matrix().long()
        check(self, [
            Case(value=value, source=(p, ), target=(R, ))
            for p in (PMAX, Placement("P", reduce="min"))
        ], ONE)

    def test_three_dims(self) -> None:
        value = torch.randn(4, 2, 6, dtype=torch.float64)
        layouts: list[Layout] = [(S(d), ) for d in range(3)]
        check(self, [
            Case(value=value, source=s, target=t)
            for s, t in reachable(layouts)
        ], ONE)


class TestByParts(unittest.TestCase):
    """A dim that is made of parts, each of which is sharded."""

    def test_every_pair(self) -> None:
        layouts: list[Layout] = [(p, ) for p in (*PLACEMENTS, *BY_PARTS)]
        pairs = reachable(layouts)
        value = matrix(16, 32)
        for mesh in (ONE, WIDE):
            check(self, [
                Case(value=value, source=s, target=t, transposed=transposed)
                for s, t in pairs if s[0].parts or t[0].parts
                for transposed in (False, True)
            ], mesh)

    def test_two_axes(self) -> None:
        placements = (R, V, S(0), S(1), BY_PARTS[1], BY_PARTS[2])
        layouts: list[Layout] = list(itertools.product(placements, repeat=2))
        pairs = [(s, t) for s, t in reachable(layouts)
                 if any(p.parts for p in s + t)]
        self.assertGreater(len(pairs), 300)
        value = matrix(16, 32)
        check(self, [
            Case(value=value, source=s, target=t)
            for s, t in pairs if _means_something(s) and _means_something(t)
        ], TWO)

    def test_other_parts_than_those_of_an_outer_axis(self) -> None:
        for outer in (S(0), BY_PARTS[0]):
            self.assertIsNone(
                conversion_steps((outer, R), (outer, BY_PARTS[1]),
                                 differentiable=True))


def _means_something(layout: Layout) -> bool:
    """Whether no axis cuts by parts what an outer one cut otherwise."""
    outer, inner = layout
    return not inner.parts or outer.dim != inner.dim or outer == inner


class TestTwoAxes(unittest.TestCase):

    def test_every_pair(self) -> None:
        layouts = list(itertools.product(PLACEMENTS, repeat=2))
        pairs = reachable(layouts)
        self.assertGreater(len(pairs), 400)
        check(self,
              [Case(value=matrix(), source=s, target=t) for s, t in pairs],
              TWO)


class TestCopies(unittest.TestCase):

    def test_a_dim_behind_one_place_is_not_copied(self) -> None:
        """As `planner.cost.conversion` counts them."""
        axis = AxisRef(name="x", size=4, coordinate=0)
        for rows, is_copied in ((1, False), (2, True)):
            sent: list[torch.Tensor] = []

            def gathered_whole(x: torch.Tensor, _: AxisRef) -> torch.Tensor:
                sent.append(x)
                sent.append(x.new_zeros(4 * x.shape[0], *x.shape[1:]))
                return sent[-1]

            x = torch.zeros(rows, 3, 5)
            with mock.patch("passes.collectives._gather", gathered_whole):
                whole = convert(x, S(1), R, axis)
            self.assertEqual(whole.shape, (rows, 12, 5))
            self.assertTrue(whole.is_contiguous())
            pairs = ((x, sent[0]), (sent[1], whole))
            for before, after in pairs:
                self.assertEqual(before.data_ptr() != after.data_ptr(),
                                 is_copied)


class TestRefusals(unittest.TestCase):

    def refused(self, x: torch.Tensor, source: Placement,
                target: Placement) -> None:
        axis = AxisRef(name="x", size=3, coordinate=0)
        with self.assertRaisesRegex(ValueError, "does not divide"):
            convert(x, source, target, axis)

    def test_uneven_dims(self) -> None:
        for source, target in ((R, S(0)), (P, S(0)), (S(1), S(0))):
            with self.subTest(f"{source} -> {target}"):
                self.refused(torch.ones(4, 6), source, target)

    def test_no_such_collective(self) -> None:
        self.assertIsNone(move(PMAX, S(0)))
        self.assertIsNone(move(R, PMAX))
        axis = AxisRef(name="x", size=2, coordinate=0)
        with self.assertRaisesRegex(AssertionError, "no conversion"):
            convert(torch.ones(2), R, PMAX, axis)

    def test_only_sums_are_differentiated(self) -> None:
        self.assertIsNotNone(gradient_move(P, R))
        self.assertIsNotNone(gradient_move(R, V))


if __name__ == "__main__":
    unittest.main()
