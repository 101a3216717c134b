"""Where to cut a program into stages of about equal time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.cluster.spec import DeviceKind
from planner.cost.compute import time_s
from planner.ir.errors import LayoutError
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Program
from planner.ir.values import calls_of
from planner.search.facts import ClassFacts, Facts

__all__ = [
    "balanced", "block_times_s", "call_times_s", "cuts_by_parameters",
    "equal_cuts"
]

_UNEVEN = 1.5
"""How much longer than the rest the longest stage of whole blocks may be."""

_WIDE = 2
"""How many times the narrowest cut of a block another one may send."""

_GRAIN = 16
"""Parts of a stage's work in each of which one cut is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A run of calls that stays together, and the cut it begins with."""

    cut: str
    time_s: float


def call_times_s(facts: Facts, layout: ProgramLayout,
                 device: DeviceKind) -> dict[str, list[float]]:
    """Compute of each call of each class, forward and backward, on one rank.

    Parameters
    ----------
    facts : Facts
    layout : ProgramLayout
        What an axis divides, is counted once.
    device : DeviceKind
    """
    found = {}
    for name, cls in facts.classes.items():
        times = []
        for label, call in cls.calls.items():
            chosen = layout.classes[name].calls[label]
            share = chosen.share(layout.mesh.sizes)
            times.append(
                sum(time_s(call.work, device, call.dtype, share=share)))
        found[name] = times
    return found


def block_times_s(facts: Facts, layout: ProgramLayout,
                  device: DeviceKind) -> list[float]:
    """Compute of each block, as :func:`call_times_s`."""
    times = call_times_s(facts, layout, device)
    return [sum(times[b.block_class]) for b in facts.program.blocks]


def equal_cuts(facts: Facts, layout: ProgramLayout, device: DeviceKind,
               stages: int) -> tuple[str, ...]:
    """Where each stage but the first begins.

    Stages begin with a block where they come out about even. Else, and
    where there are too few blocks, they begin inside of blocks, at calls
    before which little is to be sent.

    Raises
    ------
    LayoutError
        When there are fewer calls than stages.
    """
    times = call_times_s(facts, layout, device)
    blocks = [
        _Piece(cut=b.name, time_s=sum(times[b.block_class]))
        for b in facts.program.blocks
    ]
    if (len(blocks) >= stages and _longest_s(blocks, stages)
            <= _UNEVEN * sum(p.time_s for p in blocks) / stages):
        return _cuts(blocks, stages)
    pieces = _pieces(facts, times, stages)
    if len(pieces) < stages:
        raise LayoutError(
            f"pipeline: {facts.program.model_name} has {len(pieces)} calls "
            f"to cut at, too few for {stages} stages; use fewer ranks or "
            "chunks")
    if len(blocks) >= stages and (_longest_s(blocks, stages)
                                  <= _UNEVEN * _longest_s(pieces, stages)):
        return _cuts(blocks, stages)
    return _cuts(pieces, stages)


def cuts_by_parameters(program: Program,
                       stages: Sequence[Collection[str]]) -> tuple[str, ...]:
    """Cuts with which parameters stay on the stages that have them.

    For a program whose blocks are not those that a plan's cuts name.

    Parameters
    ----------
    program : Program
    stages : sequence of collection of str
        Parameters of each stage, by global name; those of several stages
        say nothing.

    Raises
    ------
    LayoutError
        When parameters are not read in the order of the stages.
    """
    count = Counter(n for names in stages for n in names)
    stage_of = {
        n: number
        for number, names in enumerate(stages)
        for n in names if count[n] == 1
    }
    cuts: dict[int, str] = {}
    last = 0
    for block, call, names in _reads(program):
        own = {stage_of[n] for n in names if n in stage_of} or {last}
        if min(own) < last:
            raise LayoutError(
                f"pipeline: {program.model_name} reads parameters of stage "
                f"{min(own)} after those of stage {last} for these inputs; "
                "call it in the modes it was planned for")
        for number in range(last + 1, max(own) + 1):
            cuts[number] = f"{block}:{call}" if call else block
        last = max(own)
    return tuple(cuts[n] for n in sorted(cuts))


def _reads(program: Program) -> Iterator[tuple[str, str, list[str]]]:
    """Calls with what they read of outside; "" for a block's first."""
    for block in program.blocks:
        cls = program.class_of(block)
        bound = dict(zip(cls.placeholders, block.operands, strict=True))
        for number, node in enumerate(calls_of(cls.graph)):
            yield (block.name, node.meta["label"] if number else "",
                   [bound[n] for n in node.all_input_nodes if n in bound])


def _cuts(pieces: Sequence[_Piece], stages: int) -> tuple[str, ...]:
    return tuple(pieces[i].cut
                 for i in balanced([p.time_s for p in pieces], stages))


def _longest_s(pieces: Sequence[_Piece], stages: int) -> float:
    times = [p.time_s for p in pieces]
    ends = [0, *balanced(times, stages), len(times)]
    return max(sum(times[a:b]) for a, b in itertools.pairwise(ends))


def _pieces(facts: Facts, times: Mapping[str, Sequence[float]],
            stages: int) -> list[_Piece]:
    """Blocks, divided at calls before which little is live."""
    total_s = sum(sum(times[b.block_class]) for b in facts.program.blocks)
    found = []
    for block in facts.program.blocks:
        of_calls = times[block.block_class]
        cls = facts.classes[block.block_class]
        starts = _narrow_starts(cls, of_calls, total_s / stages / _GRAIN)
        if len(facts.program.blocks) + len(starts) < stages:
            starts = list(range(1, len(of_calls)))
        labels = list(cls.calls)
        ends = [0, *starts, len(of_calls)]
        for begin, end in itertools.pairwise(ends):
            cut = f"{block.name}:{labels[begin]}" if begin else block.name
            found.append(_Piece(cut=cut, time_s=sum(of_calls[begin:end])))
    return found


def _narrow_starts(cls: ClassFacts, times: Sequence[float],
                   grain_s: float) -> list[int]:
    """Of every `grain_s` of work the call before which least is live,
    where that is little for this block."""
    live = _live_bytes(cls)
    if not live:
        return []
    limit = _WIDE * min(live.values())
    best: dict[int, tuple[int, int]] = {}
    until_s = 0.0
    for number, time in enumerate(times):
        if number and live[number] <= limit:
            key = int(until_s / grain_s) if grain_s else number
            best[key] = min(best.get(key, (live[number], number)),
                            (live[number], number))
        until_s += time
    return sorted(number for _, number in best.values())


def _live_bytes(cls: ClassFacts) -> dict[int, int]:
    """Before each call but the first, the size of what has a gradient, is
    there already and is read later, in this block or in others."""
    order = {label: i for i, label in enumerate(cls.calls)}
    change = [0] * (len(order) + 1)
    last = {v: len(order) for v in cls.results}
    for value, readers in cls.readers.items():
        number = max(order[label] for label, _ in readers)
        last[value] = max(last.get(value, 0), number)
    for value, end in last.items():
        if value.bound_kind != "value" or not value.spec.requires_grad:
            continue
        made = order.get(str(value.node.meta["label"]), -1)
        change[made + 1] += value.spec.size_bytes
        if end < len(order):
            change[end + 1] -= value.spec.size_bytes
    return {
        i: size
        for i, size in enumerate(itertools.accumulate(change))
        if 0 < i < len(order)
    }


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
