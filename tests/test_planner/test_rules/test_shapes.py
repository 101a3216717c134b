"""Options of the shape-dependent families, over generated shapes."""

from __future__ import annotations

import math
import unittest
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.rules.view import reshaped_dims
from tests.test_planner.test_rules.cases.case import flags, ints, normal
from tests.test_planner.test_rules.checking import check_options

aten = torch.ops.aten

SIZES = st.sampled_from((1, 2, 3, 4, 6))
SHAPES = st.lists(SIZES, min_size=1, max_size=4)
RANKS = st.sampled_from((2, 3))
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def regroupings(draw: Any) -> tuple[list[int], list[int]]:
    """Two shapes of the same elements, with dims of 1 in between."""
    factors = draw(st.lists(st.sampled_from((2, 2, 3)), max_size=5))

    def grouped() -> list[int]:
        cuts = draw(
            st.lists(st.booleans(),
                     min_size=len(factors),
                     max_size=len(factors)))
        shape = [1]
        for factor, cut in zip(factors, cuts, strict=True):
            if cut:
                shape.append(1)
            shape[-1] *= factor
        if draw(st.booleans()):
            shape.insert(draw(st.integers(0, len(shape))), 1)
        return shape

    return grouped(), grouped()


@st.composite
def broadcasts(draw: Any, count: int) -> list[list[int]]:
    """Shapes that broadcast together."""
    whole = draw(SHAPES)
    shapes = []
    for _ in range(count):
        kept = draw(
            st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
        shape = [n if k else 1 for n, k in zip(whole, kept, strict=True)]
        shapes.append(shape[draw(st.integers(0, len(whole))):])
    shapes[draw(st.integers(0, count - 1))] = whole
    return shapes


class TestViews(unittest.TestCase):

    @few
    @given(regroupings(), RANKS)
    def test_view(self, shapes: tuple[list[int], list[int]],
                  size: int) -> None:
        source, target = shapes
        check_options(aten.view.default, (normal(*source), target), size=size)

    @few
    @given(regroupings())
    def test_reshaped_dims_pair_leftmost_dims(
            self, shapes: tuple[list[int], list[int]]) -> None:
        source, target = shapes
        for a, b in reshaped_dims(source, target):
            self.assertEqual(math.prod(source[:a]), math.prod(target[:b]))
            self.assertGreater(min(source[a], target[b]), 1)

    @few
    @given(SHAPES, RANKS, st.data())
    def test_moves(self, shape: list[int], size: int, data: Any) -> None:
        x, n = normal(*shape), len(shape)
        order = data.draw(st.permutations(range(n)))
        check_options(aten.permute.default, (x, order), size=size)
        dim = data.draw(st.integers(-n, n - 1))
        start, end = data.draw(
            st.tuples(st.integers(-3, 6), st.integers(-3, 7)))
        if len(range(shape[dim])[start:end]) > 0:
            check_options(aten.slice.Tensor, (x, dim, start, end), size=size)
        check_options(aten.select.int, (x, dim, 0), size=size)
        check_options(aten.cat.default, ([x, x], dim), size=size)
        check_options(aten.squeeze.dim, (x, dim), size=size)
        check_options(aten.unsqueeze.default, (x, dim), size=size)

    @few
    @given(broadcasts(2), RANKS)
    def test_expand(self, shapes: list[list[int]], size: int) -> None:
        whole = list(torch.broadcast_shapes(*shapes))
        for shape in shapes:
            check_options(aten.expand.default, (normal(*shape), whole),
                          size=size)


class TestPointwise(unittest.TestCase):

    @few
    @given(broadcasts(3), RANKS)
    def test_broadcasting(self, shapes: list[list[int]], size: int) -> None:
        a, b, c = (normal(*s) for s in shapes)
        for op in (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor,
                   aten.atan2.default):
            check_options(op, (a, b), size=size)
        check_options(aten.where.self, (flags(*shapes[2]), a, b), size=size)
        check_options(aten.addcmul.default, (a, b, c), size=size)


class TestProducts(unittest.TestCase):

    @few
    @given(broadcasts(2), SIZES, SIZES, SIZES, RANKS)
    def test_matmul(self, batch: list[list[int]], m: int, k: int, n: int,
                    size: int) -> None:
        a, b = normal(*batch[0], m, k), normal(*batch[1], k, n)
        check_options(aten.matmul.default, (a, b), size=size)
        check_options(aten.matmul.default, (a, normal(k)), size=size)
        check_options(aten.matmul.default, (normal(k), b), size=size)

    @few
    @given(SHAPES, SIZES, st.booleans(), RANKS)
    def test_linear(self, shape: list[int], n: int, with_bias: bool,
                    size: int) -> None:
        bias = normal(n) if with_bias else None
        args = (normal(*shape), normal(n, shape[-1]), bias)
        check_options(aten.linear.default, args, size=size)


class TestReductions(unittest.TestCase):

    @few
    @given(SHAPES, st.booleans(), RANKS, st.data())
    def test_dims(self, shape: list[int], keep: bool, size: int,
                  data: Any) -> None:
        x, n = normal(*shape), len(shape)
        dims = data.draw(
            st.lists(st.integers(0, n - 1), unique=True, min_size=1))
        for op in (aten.sum.dim_IntList, aten.mean.dim):
            check_options(op, (x, dims, keep), size=size)
        check_options(aten.amax.default, (x.detach(), dims, keep), size=size)
        check_options(aten.softmax.int, (x, dims[0]), size=size)
        check_options(aten.max.dim, (x, dims[0], keep), size=size)


class TestIndexing(unittest.TestCase):

    @few
    @given(SHAPES, RANKS, st.data())
    def test_index(self, shape: list[int], size: int, data: Any) -> None:
        taken = data.draw(
            st.lists(st.booleans(), min_size=1, max_size=len(shape)))
        if not any(taken):
            taken[0] = True
        parts = data.draw(broadcasts(sum(taken)))
        own = iter(parts)
        indices = [
            ints(n, *next(own)) if t else None for n, t in zip(shape, taken)
        ]
        x = normal(*shape)
        check_options(aten.index.Tensor, (x, indices), size=size)
        values = normal(*x[tuple(
            slice(None) if i is None else i for i in indices)].shape)
        check_options(aten.index_put.default, (x, indices, values, True),
                      size=size)


if __name__ == "__main__":
    unittest.main()
