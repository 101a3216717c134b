"""The size of the global batch as a part of the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from planner.ir.errors import InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.objective import step_work
from planner.planning import Planning
from planner.tried import Tried, search_or_why
from planner.units import format_bytes

__all__ = [
    "Batched", "batch_sizes", "best_batch", "rows_of", "search_batches",
    "with_rows"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched(Tried):
    """What was found for a global batch of some rows."""

    rows: int

    @property
    def rate(self) -> float:
        """Units of work per second and device, of the best plan."""
        best = self.found[0]
        return step_work(self.planning.program).rate(best.time_s,
                                                     best.mesh.world_size)


def batch_sizes(sizes: range) -> list[int]:
    """Which of a range are tried: the first, its doubles, and the last.

    Parameters
    ----------
    sizes : range
        With a step, only what is in it.

    Raises
    ------
    ValueError
        When it has no positive number.

    Examples
    --------
    >>> batch_sizes(range(256, 2049))
    [256, 512, 1024, 2048]
    >>> batch_sizes(range(24, 101, 4))
    [24, 48, 96, 100]
    """
    known = [*sizes[:1], *sizes[-1:]]
    if not known or min(known) < 1 or sizes.step < 1:
        raise ValueError(f"a global batch can't be of {sizes}: give a range "
                         "of positive sizes, as range(256, 2049)")
    first, last = known
    doubles = [
        first * 2**n for n in range((last // first).bit_length())
        if first * 2**n in sizes
    ]
    return sorted({*doubles, last})


def rows_of(inputs: Any) -> int:
    """The size of the batch: the most frequent first dim of the tensors."""
    sizes = [
        leaf.shape[0] for leaf in tree_leaves(inputs)
        if isinstance(leaf, torch.Tensor) and leaf.ndim
    ]
    return max(sizes, key=sizes.count, default=1)


def with_rows(inputs: Any, wanted: int) -> Any:
    """Inputs with a batch of another size: cut, or repeated.

    Parameters
    ----------
    inputs : tree of tensors
        Those whose first dim is that of the batch are changed.
    wanted : int

    Examples
    --------
    >>> with_rows({"x": torch.zeros(4, 2), "n": 3}, 6)["x"].shape
    torch.Size([6, 2])
    """
    rows = rows_of(inputs)

    def resized(leaf: Any) -> Any:
        if not (isinstance(leaf, torch.Tensor) and leaf.ndim
                and leaf.shape[0] == rows):
            return leaf
        times = -(-wanted // rows)
        return (torch.cat([leaf] * times) if times > 1 else leaf)[:wanted]

    return tree_map(resized, inputs)


def search_batches(sizes: range, planning_of: Callable[[int], Planning],
                   meshes: Sequence[MeshSpec]) -> list[Batched]:
    """The best plans for each size of the global batch.

    Parameters
    ----------
    sizes : range
    planning_of : callable
        From rows to the planning of the program on so many.
    meshes : sequence of MeshSpec
    """
    tried = []
    for rows in batch_sizes(sizes):
        planning = planning_of(rows)
        found, reason = search_or_why(planning, meshes)
        tried.append(
            Batched(rows=rows, planning=planning, found=found, reason=reason))
    return tried


def best_batch(tried: Sequence[Batched]) -> Batched:
    """The size with most work per second and device; the smaller of equals.

    Raises
    ------
    InfeasiblePlan
        When none fits in memory.
    """
    fitting = [t for t in tried if t.fits]
    if fitting:
        return max(fitting, key=lambda t: (t.rate, -t.rows))
    first = tried[0]
    if not first.found:
        raise InfeasiblePlan(first.reason)
    least = first.found[0]
    raise InfeasiblePlan(
        f"no plan of {first.planning.program.model_name} fits "
        f"{format_bytes(first.planning.memory_limit_bytes)} per device with "
        f"a batch of {first.rows} or more: the smallest, {least.name}, takes "
        f"{format_bytes(least.memory.total)}; allow a smaller batch or use "
        "more devices")
