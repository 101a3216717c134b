"""In which order to eliminate variables, and how large the tables become.

Finding the best order is NP-hard; greedy orders are near it on graphs that
are almost trees. Two are tried, both from Koller and Friedman,
"Probabilistic Graphical Models" (2009), section 9.4.3: smallest table
next, and least weighted fill next.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from planner.search.factors import FactorGraph

__all__ = ["Order", "best_order", "fill_order", "table_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An elimination order and a dry run of it.

    Parameters
    ----------
    names : tuple of str
        All variables, first eliminated first.
    largest_entries : int
        Entries of the largest table summed over.
    total_entries : int
        Entries of all tables summed over, which is the work.
    kept_entries : int
        Entries of all tables left behind, which is the memory.
    width : int
        Variables in the table of most variables, less one.
    """

    names: tuple[str, ...]
    largest_entries: int
    total_entries: int
    kept_entries: int
    width: int


@dataclass(frozen=True, slots=True)
class _Links:
    """What an order depends on: all of a graph but its tables' entries."""

    states: tuple[tuple[str, int], ...]
    scopes: frozenset[tuple[str, ...]]

    @staticmethod
    def of(graph: FactorGraph) -> _Links:
        return _Links(tuple((v.name, v.size) for v in graph.variables),
                      frozenset(f.scope for f in graph.factors))


def best_order(graph: FactorGraph) -> Order:
    """The better of the greedy orders, by total work."""
    return _best_order(_Links.of(graph))


@functools.lru_cache(maxsize=256)
def _best_order(links: _Links) -> Order:
    """Found once for problems that differ in their prices alone."""
    return min(_table_order(links),
               _fill_order(links),
               key=lambda order: order.total_entries)


def table_order(graph: FactorGraph) -> Order:
    """Next is always the variable whose table is smallest; ties by name."""
    return _table_order(_Links.of(graph))


def _table_order(links: _Links) -> Order:
    sizes, adjacent = dict(links.states), _adjacency(links)
    weights = {
        n: math.prod(sizes[m] for m in (n, *adjacent[n]))
        for n in adjacent
    }

    def take(name: str) -> Iterable[str]:
        around = adjacent[name]
        for other, joined in _eliminate(adjacent, name).items():
            # Products are kept up to date, for hubs have many neighbours.
            grown = math.prod(sizes[m] for m in joined)
            weights[other] = weights[other] // sizes[name] * grown
        return around

    return _dry_run(links, _lightest_first(weights, take))


def _lightest_first(weights: dict[str, int],
                    take: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Names by their weight when they are taken; ties by name.

    `take` eliminates a variable, brings `weights` up to date and says whose
    have changed.
    """
    heap = [(weight, name) for name, weight in weights.items()]
    heapq.heapify(heap)
    names: list[str] = []
    while heap:
        weight, name = heapq.heappop(heap)
        if weights.get(name) != weight:
            continue
        del weights[name]
        names.append(name)
        for other in take(name):
            heapq.heappush(heap, (weights[other], other))
    return tuple(names)


def fill_order(graph: FactorGraph) -> Order:
    """Next is always the variable that links least; ties by name.

    What a link between two variables weighs is the size of a table over
    both.
    """
    return _fill_order(_Links.of(graph))


def _fill_order(links: _Links) -> Order:
    sizes, adjacent = dict(links.states), _adjacency(links)
    fills = {n: _fill(adjacent, sizes, n) for n in adjacent}
    return _dry_run(
        links,
        _lightest_first(fills,
                        functools.partial(_refill, adjacent, sizes, fills)))


def _refill(adjacent: dict[str, set[str]], sizes: Mapping[str, int],
            fills: dict[str, int], name: str) -> set[str]:
    """Take a variable out, and bring the fills around it up to date; whose
    these are.

    By what changes: hubs have many neighbours, of which few are concerned.
    """
    around = adjacent.pop(name)
    for other in around:
        mine = adjacent[other]
        mine.discard(name)
        fills[other] -= sizes[name] * _weight(sizes, mine - around - {other})
    touched = set(around)
    for one in around:
        for other in around - adjacent[one] - {one}:
            both = sizes[one] * sizes[other]
            shared = adjacent[one] & adjacent[other]
            for between in shared:
                fills[between] -= both
            touched |= shared
            for a, b in ((one, other), (other, one)):
                fills[a] += sizes[b] * _weight(sizes, adjacent[a] - shared)
            adjacent[one].add(other)
            adjacent[other].add(one)
    return touched


def _weight(sizes: Mapping[str, int], names: set[str]) -> int:
    return sum(map(sizes.__getitem__, names))


def _adjacency(links: _Links) -> dict[str, set[str]]:
    adjacent: dict[str, set[str]] = {name: set() for name, _ in links.states}
    for scope in links.scopes:
        for name in scope:
            adjacent[name].update(scope)
    for name, around in adjacent.items():
        around.discard(name)
    return adjacent


def _eliminate(adjacent: dict[str, set[str]],
               name: str) -> dict[str, set[str]]:
    """Take a variable out; what each neighbour is newly adjacent to."""
    around = adjacent.pop(name)
    joined = {}
    for other in around:
        mine = adjacent[other]
        mine.discard(name)
        joined[other] = around - mine - {other}
        mine |= joined[other]
    return joined


def _fill(adjacent: Mapping[str, set[str]], sizes: Mapping[str, int],
          name: str) -> int:
    around, fill = adjacent[name], 0
    for other in around:
        # Not adjacent to itself either; mostly there are few.
        missing = around - adjacent[other]
        if len(missing) > 1:
            size = sizes[other]
            fill += size * (sum(map(sizes.__getitem__, missing)) - size)
    return fill // 2


def _dry_run(links: _Links, names: tuple[str, ...]) -> Order:
    sizes, adjacent = dict(links.states), _adjacency(links)
    largest = total = kept = 0
    width = -1
    for name in names:
        around = adjacent[name]
        left = math.prod(sizes[m] for m in around)
        entries = left * sizes[name]
        largest, width = max(largest, entries), max(width, len(around))
        total, kept = total + entries, kept + left
        _eliminate(adjacent, name)
    return Order(names=names,
                 largest_entries=largest,
                 total_entries=total,
                 kept_entries=kept,
                 width=width)
