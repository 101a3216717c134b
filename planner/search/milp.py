"""The same minimum as a mixed-integer linear program, solved by HiGHS.

One binary per state of a variable and one continuous variable per finite
entry of a factor, tied by marginalisation constraints (the local polytope;
Wainwright and Jordan, "Graphical Models, Exponential Families, and
Variational Inference", 2008, section 4.1). It serves graphs that are too
wide to eliminate, and checks elimination.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse

from planner.ir.errors import InfeasiblePlan
from planner.search.factors import Factor, FactorGraph, Solution, Variable

__all__ = ["solve_milp"]

_Array = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.integer]

_INFEASIBLE = 2  # scipy.optimize.milp's status
_LARGEST_PRICE = 1e4  # HiGHS stops at an absolute gap of 1e-6, whatever is asked


def solve_milp(graph: FactorGraph,
               *,
               time_limit_s: float | None = None,
               tolerance: float = 0.0) -> Solution:
    """Minimise by branch and bound.

    Parameters
    ----------
    graph : FactorGraph
    time_limit_s : float, optional
        When it is up, the best assignment so far is returned with its gap.
    tolerance : float
        Relative gap at which to stop.

    Raises
    ------
    InfeasiblePlan
        When no assignment is finite, or none was found in time; the
        message says which.
    """
    start = time.perf_counter()
    constant = FactorGraph((), tuple(f for f in graph.factors if not f.scope))
    if np.isinf(constant.value({})):
        raise InfeasiblePlan("a constant factor is +inf, so that nothing is "
                             "legal; remove it")
    if not graph.variables:
        return _constant(constant.value({}), start)
    program = _program(graph)
    result = _optimise(program, time_limit_s, tolerance)
    if result.x is None:
        raise _no_solution(graph, result, time_limit_s)
    assignment = program.assignment(result.x, graph.variables)
    value = graph.value(assignment)
    bound = program.offset + max(result.mip_dual_bound, 0.0) * program.unit
    return Solution(value=value,
                    bound=min(bound, value),
                    seconds=time.perf_counter() - start,
                    assignment=assignment,
                    method="milp",
                    visited=int(result.mip_node_count))


def _constant(value: float, start: float) -> Solution:
    return Solution(value=value,
                    bound=value,
                    seconds=time.perf_counter() - start,
                    assignment={},
                    method="milp")


def _optimise(program: _Program, time_limit_s: float | None,
              tolerance: float) -> optimize.OptimizeResult:
    options = {"mip_rel_gap": tolerance}
    if time_limit_s is not None:
        options["time_limit"] = time_limit_s
    rows = optimize.LinearConstraint(program.matrix, program.right,
                                     program.right)
    binary = np.arange(len(program.prices)) < program.binaries
    return optimize.milp(program.prices,
                         integrality=binary.astype(int),
                         bounds=optimize.Bounds(0.0, program.upper),
                         constraints=rows,
                         options=options)


def _no_solution(graph: FactorGraph, result: optimize.OptimizeResult,
                 time_limit_s: float | None) -> InfeasiblePlan:
    count = len(graph.variables)
    if result.status == _INFEASIBLE:
        return InfeasiblePlan(
            f"no assignment of {count} variables is legal: every combination "
            "meets an entry of +inf; allow more states")
    return InfeasiblePlan(
        f"found no legal assignment of {count} variables within "
        f"{time_limit_s} s, which does not prove that there is none "
        f"({result.message}); raise time_limit_s")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Program:
    """Minimise ``prices @ x`` where ``matrix @ x == right``.

    The first columns are the variables' states, `first` says where each
    variable's begin. A price of `unit` in the tables is 1 here, and
    `offset` was taken off the tables.
    """

    prices: _Array
    upper: _Array
    binaries: int
    matrix: sparse.csr_array
    right: _Array
    first: Mapping[str, int]
    unit: float
    offset: float

    def assignment(self, x: _Array,
                   variables: Sequence[Variable]) -> dict[str, int]:
        """The state of each variable whose binary is (nearly) one."""
        return {
            v.name: int(x[self.first[v.name]:][:v.size].argmax())
            for v in variables
        }


def _program(graph: FactorGraph) -> _Program:
    ends = np.cumsum([v.size for v in graph.variables])
    first = {
        v.name: int(end) - v.size
        for v, end in zip(graph.variables, ends, strict=True)
    }
    states = np.zeros(ends[-1])
    rows = _Rows(columns=len(states))
    for variable in graph.variables:
        own = first[variable.name] + np.arange(variable.size)
        rows.add(np.zeros_like(own), own, 1.0, right=[1.0])
    entries, offset = [states], 0.0
    for factor in graph.factors:
        finite = factor.table[np.isfinite(factor.table)]
        low = finite.min() if finite.size else 0.0
        offset += low
        if len(factor.scope) == 1:
            at = first[factor.scope[0]]
            states[at:at + factor.table.size] += factor.table - low
        elif factor.scope:
            entries.append(_link(factor, first, rows) - low)
    return _scaled(np.concatenate(entries), rows, len(states), first, offset)


def _link(factor: Factor, first: Mapping[str, int], rows: _Rows) -> _Array:
    """Give each finite entry a column; a state is the sum of its entries."""
    places = np.argwhere(np.isfinite(factor.table))
    columns = rows.columns + np.arange(len(places))
    rows.columns += len(places)
    for axis, name in enumerate(factor.scope):
        size = factor.table.shape[axis]
        states = np.arange(size)
        rows.add(np.concatenate([places[:, axis], states]),
                 np.concatenate([columns, first[name] + states]),
                 np.repeat([1.0, -1.0], [len(columns), size]),
                 right=np.zeros(size))
    return factor.table[tuple(places.T)]


def _scaled(prices: _Array, rows: _Rows, binaries: int,
            first: Mapping[str, int], offset: float) -> _Program:
    legal = np.isfinite(prices)
    prices = np.where(legal, prices, 0.0)
    unit = float(prices.max()) / _LARGEST_PRICE or 1.0
    matrix, right = rows.build()
    return _Program(prices=prices / unit,
                    upper=legal.astype(np.float64),
                    binaries=binaries,
                    matrix=matrix,
                    right=right,
                    first=first,
                    unit=unit,
                    offset=offset)


class _Rows:
    """Collects the entries of a sparse matrix, block by block."""

    def __init__(self, *, columns: int) -> None:
        self.columns = columns
        self.height = 0
        self.blocks: list[tuple[_Indices, _Indices, _Array]] = []
        self.right: list[_Array] = []

    def add(self, rows: _Indices, columns: _Indices, values: _Array | float, *,
            right: _Array | Sequence[float]) -> None:
        """Add rows, counted from 0 in each block, with right-hand sides."""
        self.blocks.append(
            (self.height + rows, columns, np.broadcast_to(values, rows.shape)))
        self.right.append(np.asarray(right))
        self.height += len(right)

    def build(self) -> tuple[sparse.csr_array, _Array]:
        i, j, values = map(np.concatenate, zip(*self.blocks, strict=True))
        shape = (self.height, self.columns)
        matrix = sparse.csr_array((values, (i, j)), shape=shape)
        return matrix, np.concatenate(self.right)
