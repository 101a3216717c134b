"""Factor graphs to test with, and the solver that is beyond doubt."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from planner.search.factors import Factor, FactorGraph, Variable

__all__ = ["brute_force", "chain", "grid", "random_graphs"]


def brute_force(graph: FactorGraph) -> float:
    """The minimum over all assignments, one by one."""
    names = [v.name for v in graph.variables]
    states = itertools.product(*(range(v.size) for v in graph.variables))
    return min(graph.value(dict(zip(names, s, strict=True))) for s in states)


@st.composite
def random_graphs(draw: st.DrawFn) -> FactorGraph:
    """Up to six variables of up to four states, factors of any arity."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    variables = tuple(Variable(f"v{i}", n) for i, n in enumerate(sizes))
    scopes = draw(
        st.lists(st.lists(st.sampled_from(range(len(sizes))),
                          max_size=3,
                          unique=True),
                 max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    illegal = draw(st.sampled_from([0.0, 0.2, 0.5]))
    # Whole numbers give ties, and let sums be compared exactly.
    whole = draw(st.booleans())
    factors = []
    for scope in scopes:
        shape = tuple(sizes[i] for i in scope)
        table = rng.normal(size=shape) * 2
        table = table.round() if whole else table
        table = np.where(
            rng.random(shape) < illegal * bool(scope), np.inf, table)
        factors.append(Factor(tuple(f"v{i}" for i in scope), table))
    return FactorGraph(variables, tuple(factors))


def chain(count: int, states: int, width: int) -> FactorGraph:
    """Each variable is linked to the `width` before it."""
    rng = np.random.default_rng(0)
    names = [f"v{i:04}" for i in range(count)]
    factors = [Factor((n, ), rng.random(states)) for n in names]
    for i in range(count):
        for j in range(max(0, i - width), i):
            table = rng.random((states, states))
            # State 0 goes with all, so that a legal assignment exists.
            table[1:, 1:][rng.random((states - 1, states - 1)) < 0.2] = np.inf
            factors.append(Factor((names[j], names[i]), table))
    return FactorGraph(tuple(Variable(n, states) for n in names),
                       tuple(factors))


def grid(side: int, states: int) -> FactorGraph:
    """A square grid of variables, whose width is its side."""
    rng = np.random.default_rng(0)
    cells = list(itertools.product(range(side), repeat=2))
    factors = [Factor((f"{i},{j}", ), rng.random(states)) for i, j in cells]
    for i, j in cells:
        for k, m in ((i + 1, j), (i, j + 1)):
            if max(k, m) < side:
                factors.append(
                    Factor((f"{i},{j}", f"{k},{m}"),
                           rng.random((states, states))))
    return FactorGraph(tuple(Variable(f"{i},{j}", states) for i, j in cells),
                       tuple(factors))
