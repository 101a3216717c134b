"""Exact minimisation by eliminating one variable after another.

Bucket elimination (Dechter, "Bucket elimination: a unifying framework for
reasoning", 1999): all factors with a variable are added and minimised over
it, which leaves a factor over its neighbours; walking back gives every
variable its best state. Work is n * k ** (w + 1) for n variables of k
states and an order of width w.

All tables have their axes in the order of elimination, so the variable to
go is always axis 0 and nothing is transposed on the way. A trailing batch
axis, where there is one, takes part in every operation.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.ir.errors import InfeasiblePlan
from planner.search.factors import FactorGraph, Solution
from planner.search.order import Order, best_order
from planner.search.steps import Step, Steps, steps_of

__all__ = [
    "BatchSolution", "MAX_TABLE_ENTRIES", "eliminate", "eliminate_batch",
    "eliminate_relaxed", "fits"
]

MAX_TABLE_ENTRIES = 2**26
"""Largest table that is summed over by default, in entries.

Half a GiB, were it formed whole; it is only ever formed in blocks.
"""

_BLOCK_ENTRIES = 2**15  # a block and its sums fit a core's cache
_WHOLE_ENTRIES = 2**16  # so little that a call for each state takes longer
_MAX_KEPT_ENTRIES = 2**27  # 1 GiB of tables that wait for the way back

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchSolution:
    """The best assignment for every entry of a batch.

    Parameters
    ----------
    values : array of shape (batch,)
        The minima; ``+inf`` where nothing is legal.
    states : mapping of str to array of shape (batch,)
        A state for each variable; no meaning where the value is ``+inf``.
    """

    values: _Array
    states: Mapping[str, npt.NDArray[np.intp]]

    def assignment(self, index: int) -> dict[str, int]:
        """The assignment of one entry of the batch."""
        return {n: int(s[index]) for n, s in self.states.items()}


def fits(order: Order, max_table_entries: int = MAX_TABLE_ENTRIES) -> bool:
    """Whether elimination along `order` stays within the limit."""
    return (order.largest_entries <= max_table_entries
            and order.kept_entries <= _MAX_KEPT_ENTRIES)


def eliminate(graph: FactorGraph,
              *,
              order: Order | None = None,
              max_table_entries: int = MAX_TABLE_ENTRIES) -> Solution:
    """Minimise exactly; among equal states the walk back takes the lowest.

    Parameters
    ----------
    graph : FactorGraph
    order : Order, optional
        Left out: :func:`planner.search.order.best_order`.
    max_table_entries : int
        Refuse a larger table, before anything is computed.

    Raises
    ------
    InfeasiblePlan
        When no assignment is finite.
    ValueError
        When a table would be too large.
    """
    start = time.perf_counter()
    order = _checked(order or best_order(graph), max_table_entries)
    bound, states = _run(graph, [f.table for f in graph.factors], order, ())
    if np.isinf(bound):
        raise InfeasiblePlan(
            f"no assignment of {len(graph.variables)} variables is legal: "
            "every combination meets an entry of +inf; allow more states")
    assignment = {v.name: int(states[v.name]) for v in graph.variables}
    return Solution(value=graph.value(assignment),
                    bound=float(bound),
                    seconds=time.perf_counter() - start,
                    assignment=assignment,
                    method="elimination",
                    visited=order.total_entries,
                    width=order.width)


def eliminate_relaxed(graph: FactorGraph,
                      *,
                      max_table_entries: int,
                      order: Order | None = None) -> Solution:
    """A bound and an assignment, in little time however wide the graph.

    Mini-bucket elimination (Dechter and Rish, "Mini-buckets: a general
    scheme for bounded inference", 2003): what would make too large a table
    is minimised in groups, as if the variable could differ among them.

    Parameters
    ----------
    graph : FactorGraph
    max_table_entries : int
        No table is larger, but for those that are given.
    order : Order, optional
        Left out: :func:`planner.search.order.best_order`.

    Returns
    -------
    Solution
        Its value may be ``+inf``; where its bound is, nothing is legal.
    """
    start = time.perf_counter()
    order = order or best_order(graph)
    bound, states = _run(graph, [f.table for f in graph.factors],
                         order, (),
                         limit=max_table_entries)
    assignment = {v.name: int(states[v.name]) for v in graph.variables}
    return Solution(value=graph.value(assignment),
                    bound=float(bound),
                    seconds=time.perf_counter() - start,
                    assignment=assignment,
                    method="relaxation")


def eliminate_batch(
        graph: FactorGraph,
        tables: Sequence[_Array],
        *,
        order: Order | None = None,
        max_table_entries: int = MAX_TABLE_ENTRIES) -> BatchSolution:
    """Minimise for many tables at once, such as many prices of memory.

    Parameters
    ----------
    graph : FactorGraph
        Gives variables and scopes; its own tables are not read.
    tables : sequence of arrays
        One per factor of `graph`: its shape and a trailing batch axis,
        which may be 1 where a factor is the same for all.
    order, max_table_entries
        As for :func:`eliminate`; the limit is for one entry of the batch.
        A batch that would take too much memory is worked off in parts.

    Raises
    ------
    ValueError
        When shapes do not fit, or one entry's tables would be too large.

    Examples
    --------
    >>> from planner.search.factors import Factor, Variable
    >>> graph = FactorGraph((Variable("a", 2), ),
    ...                     (Factor(("a", ), [0.0, 0.0]), ))
    >>> price = np.array([0.0, 1.0, 2.0])
    >>> time_s = np.array([[1.0], [2.5]])
    >>> saved_bytes = np.array([[1.0], [0.0]])
    >>> eliminate_batch(graph, [time_s + price * saved_bytes]).values
    array([1. , 2. , 2.5])
    """
    order = _checked(order or best_order(graph), max_table_entries)
    batch = _batch_size(graph, tables)
    step = max(1, _MAX_KEPT_ENTRIES // max(order.kept_entries, 1))
    values, states = [], []
    for first in range(0, batch, step):
        part = slice(first, min(first + step, batch))
        some = [t if t.shape[-1] == 1 else t[..., part] for t in tables]
        value, state = _run(graph, some, order, (part.stop - first, ))
        values.append(value)
        states.append(state)
    return BatchSolution(values=np.concatenate(values),
                         states={
                             v.name:
                             np.concatenate([s[v.name] for s in states])
                             for v in graph.variables
                         })


def _checked(order: Order, max_table_entries: int) -> Order:
    if fits(order, max_table_entries):
        return order
    raise ValueError(
        f"elimination needs a table of {order.largest_entries} entries (width "
        f"{order.width}) and keeps {order.kept_entries}, over the limit of "
        f"{max_table_entries} for one or of {_MAX_KEPT_ENTRIES} for all; "
        "raise max_table_entries or use planner.search.milp")


def _batch_size(graph: FactorGraph, tables: Sequence[_Array]) -> int:
    if len(tables) != len(graph.factors):
        raise ValueError(f"{len(tables)} tables for {len(graph.factors)} "
                         "factors; give one for each")
    batches = {1}
    for factor, table in zip(graph.factors, tables, strict=True):
        if table.shape[:-1] != factor.table.shape or not table.ndim:
            raise ValueError(
                f"the table for {factor.scope} has shape {table.shape}; it "
                f"needs {factor.table.shape} and a trailing batch axis")
        batches.add(table.shape[-1])
    if len(batches - {1}) > 1:
        raise ValueError(f"the tables have batch sizes {sorted(batches)}; all "
                         "need the same, or 1")
    if 0 in batches:
        raise ValueError("the batch is empty; give at least one entry")
    return max(batches)


def _run(graph: FactorGraph,
         tables: Sequence[_Array],
         order: Order,
         batch: tuple[int, ...],
         *,
         limit: int | None = None) -> tuple[_Array, dict[str, Any]]:
    """Eliminate along the order, then walk back.

    Parameters
    ----------
    batch : tuple of int
        The shape of the result: empty, or the batch size.
    limit : int, optional
        Relax where a table would have more entries.
    """
    steps = steps_of(tuple([f.scope for f in graph.factors]),
                     tuple([t.shape for t in tables]), order.names, limit)
    known = [
        t if axes is None else np.ascontiguousarray(t.transpose(axes))
        for t, axes in zip(tables, steps.axes, strict=True)
    ]
    for step in steps.steps:
        known.append(_minimised(step, known))
    constant: _Array = np.zeros(batch)
    for number in steps.constants:
        constant = constant + known[number]
    return constant, _walk_back(steps, known, batch)


def _minimised(step: Step, known: Sequence[_Array]) -> _Array:
    """Add tables and minimise over their first axis."""
    if len(step.tables) == 1:
        return np.minimum.reduce(known[step.tables[0]])
    spread = [
        known[n] if shape is None else known[n].reshape(shape)
        for n, shape in zip(step.tables, step.shapes)
    ]
    best = np.empty(step.left)
    _minimise_into(best, spread, len(spread[0]))
    return best


def _minimise_into(best: _Array, tables: Sequence[_Array],
                   states: int) -> None:
    """Set `best` to the minimum of the tables' sum over their first axis.

    Works in blocks that fit a core's cache.
    """
    if best.size * states <= _WHOLE_ENTRIES:
        np.minimum.reduce(_sum(tables), out=best)
    elif best.size <= _BLOCK_ENTRIES:
        best[...] = _sum([t[0] for t in tables])
        for state in range(1, states):
            np.minimum(best, _sum([t[state] for t in tables]), out=best)
    else:
        rows = max(_BLOCK_ENTRIES // best[0].size, 1)
        for i in range(0, len(best), rows):
            some = [t if t.shape[1] == 1 else t[:, i:i + rows] for t in tables]
            part = best[i:i + rows]
            if len(part) == 1:
                part, some = part[0], [t[:, 0] for t in some]
            _minimise_into(part, some, states)


def _sum(tables: Sequence[_Array]) -> _Array:
    return functools.reduce(np.add, tables)


def _walk_back(steps: Steps, known: Sequence[_Array],
               batch: tuple[int, ...]) -> dict[str, Any]:
    """Choose states in reverse, each knowing all that its bucket needs."""
    entry = tuple(np.arange(n) for n in batch)
    states: dict[str, Any] = {}
    for name, bucket in steps.back:
        costs = []
        for number, others in bucket:
            table = known[number]
            chosen = [states[n] for n in others]
            shared = [i % table.shape[-1] for i in entry]
            costs.append(table[(slice(None), *chosen, *shared)])
        best = (_sum(costs) if costs else np.zeros((1, *batch))).argmin(axis=0)
        # Numbers are quicker to index by than arrays of one.
        states[name] = best if batch else int(best)
    return states
