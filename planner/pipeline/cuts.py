"""Where to cut a program into stages of about equal time."""

from __future__ import annotations

from collections.abc import Sequence

from planner.cluster.spec import DeviceKind
from planner.cost.compute import time_s
from planner.ir.errors import LayoutError
from planner.ir.layouts import ProgramLayout
from planner.search.facts import Facts

__all__ = ["balanced", "block_times_s", "equal_cuts"]


def block_times_s(facts: Facts, layout: ProgramLayout,
                  device: DeviceKind) -> list[float]:
    """Compute of each block, forward and backward, on one rank.

    Parameters
    ----------
    facts : Facts
    layout : ProgramLayout
        What an axis divides, is counted once.
    device : DeviceKind
    """
    of_class = {}
    for name, cls in facts.classes.items():
        total = 0.0
        for label, call in cls.calls.items():
            share = 1.0
            options = layout.classes[name].calls[label].options
            for option, size in zip(options, layout.mesh.sizes, strict=True):
                share /= size if option.is_sharded else 1
            total += sum(time_s(call.work, device, call.dtype, share=share))
        of_class[name] = total
    return [of_class[b.block_class] for b in facts.program.blocks]


def equal_cuts(facts: Facts, layout: ProgramLayout, device: DeviceKind,
               stages: int) -> tuple[str, ...]:
    """The first block of each stage but the first.

    Raises
    ------
    LayoutError
        When there are fewer blocks than stages.
    """
    names = [b.name for b in facts.program.blocks]
    if len(names) < stages:
        raise LayoutError(
            f"pipeline: {facts.program.model_name} has {len(names)} blocks "
            f"({', '.join(names)}), too few for {stages} stages; use fewer "
            "ranks or chunks, or write the model's layers as a ModuleList")
    times = block_times_s(facts, layout, device)
    return tuple(names[i] for i in balanced(times, stages))


def balanced(times_s: Sequence[float], parts: int) -> list[int]:
    """Where to cut a row so that its longest part is as short as can be.

    Exact, by dynamic programming over (parts, end).

    Returns
    -------
    list of int
        The first index of every part but the first; parts are not empty.

    Examples
    --------
    >>> balanced([1.0, 1.0, 2.0, 2.0], 3)
    [2, 3]
    """
    count = len(times_s)
    until = [0.0]
    for time in times_s:
        until.append(until[-1] + time)
    best = {(1, end): (until[end], 0) for end in range(1, count + 1)}
    for part in range(2, parts + 1):
        for end in range(part, count + 1):
            best[part, end] = min(
                (max(best[part - 1, cut][0], until[end] - until[cut]), cut)
                for cut in range(part - 1, end))
    cuts, end = [], count
    for part in range(parts, 1, -1):
        end = best[part, end][1]
        cuts.append(end)
    return cuts[::-1]
