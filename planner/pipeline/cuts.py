"""Where to cut a program into stages of about equal time."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from planner.cluster.spec import DeviceKind
from planner.ir.errors import LayoutError
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Program
from planner.ir.values import calls_of
from planner.pipeline.mixed_cuts import balanced_on
from planner.search.facts import ClassFacts, Facts

__all__ = [
    "Piece", "balanced", "block_times_s", "call_times_s", "cut_pieces",
    "cuts_by_parameters", "equal_cuts", "finer_pieces"
]

_UNEVEN = 1.5
"""How much longer than the rest the longest stage of whole blocks may be."""

_WIDE = 2
"""How many times the narrowest cut of a block another one may send."""

_GRAIN = 16
"""Parts of a stage's work in each of which one cut is looked at."""

_ROUNDING = 1e-12  # of the sum

Times = tuple[float, ...]
"""On each kind of device that stages are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run of calls of one block that stays together.

    Parameters
    ----------
    cut : str
        With which a stage begins here.
    block : int
        Its number in the program.
    share : float
        Of the block's work.
    times_s : tuple of float
        On each kind of device that stages are on.
    kernels : tuple of float
        What of the block's kernels it launches, forward and backward.
    """

    cut: str
    block: int
    share: float
    times_s: tuple[float, ...]
    kernels: tuple[float, float] = (1.0, 1.0)


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
            sizes = layout.mesh.sizes
            times.append(
                sum(
                    call.times_s(device, chosen.share(sizes),
                                 call.made(chosen.options, sizes))))
        found[name] = times
    return found


def block_times_s(facts: Facts, layout: ProgramLayout,
                  device: DeviceKind) -> list[float]:
    """Compute of each block, as :func:`call_times_s`."""
    times = call_times_s(facts, layout, device)
    return [sum(times[b.block_class]) for b in facts.program.blocks]


def equal_cuts(facts: Facts, layout: ProgramLayout,
               devices: Sequence[DeviceKind]) -> tuple[str, ...]:
    """Where each stage but the first begins, so that all take equally long.

    Stages begin with a block where they come out about even. Else, and
    where there are too few blocks, they begin inside of blocks, at calls
    before which little is to be sent.

    Parameters
    ----------
    facts : Facts
    layout : ProgramLayout
    devices : sequence of DeviceKind
        Of each stage.

    Raises
    ------
    LayoutError
        When there are fewer calls than stages.
    """
    kinds = list(dict.fromkeys(devices))
    times = [call_times_s(facts, layout, kind) for kind in kinds]
    blocks = [
        Piece(cut=b.name,
              block=i,
              share=1.0,
              times_s=tuple(sum(t[b.block_class]) for t in times))
        for i, b in enumerate(facts.program.blocks)
    ]

    def refined() -> tuple[list[Piece], list[Times]]:
        pieces = finer_pieces(facts, times, len(devices))
        return pieces, [p.times_s for p in pieces]

    finer, starts = cut_pieces([b.times_s for b in blocks],
                               [kinds.index(d) for d in devices], refined)
    pieces = finer or blocks
    if len(starts) < len(devices):
        raise LayoutError(
            f"pipeline: {facts.program.model_name} has {len(pieces)} calls to "
            f"cut at, too few for {len(devices)} stages; use fewer ranks or "
            "chunks")
    return tuple(pieces[i].cut for i in starts[1:])


def cut_pieces(
    blocks: Sequence[Times], kinds: Sequence[int],
    refine: Callable[[], tuple[Sequence[Piece], Sequence[Times]]]
) -> tuple[Sequence[Piece], list[int]]:
    """Whole blocks where stages of them come out about even, else pieces.

    Parameters
    ----------
    blocks : sequence of tuple of float
        Seconds of each on each kind of device.
    kinds : sequence of int
        Of device, by stage.
    refine : callable
        The blocks in pieces, and seconds of each.

    Returns
    -------
    sequence of Piece
        What stages are made of; empty for whole blocks.
    list of int
        The first block or piece of each stage; fewer where there are not as
        many.
    """
    stages, whole = len(kinds), _starts(blocks, kinds)
    longest_s = _longest_s(blocks, whole, kinds)
    if len(whole) == stages and longest_s <= _UNEVEN * _even_s(blocks, kinds):
        return (), whole
    pieces, times_s = refine()
    finer = _starts(times_s, kinds)
    if len(whole) == stages and (len(finer) < stages or longest_s <= _UNEVEN *
                                 _longest_s(times_s, finer, kinds)):
        return (), whole
    return pieces, finer


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


def _starts(pieces: Sequence[Times], kinds: Sequence[int]) -> list[int]:
    kinds = kinds[:len(pieces)]
    if len(set(kinds)) <= 1:
        return [0, *balanced([p[kinds[0]] for p in pieces], len(kinds))]
    rows = [[p[kind] for p in pieces] for kind in kinds]
    return [0, *(balanced_on(np.array(rows)) or ())]


def _longest_s(pieces: Sequence[Times], starts: Sequence[int],
               kinds: Sequence[int]) -> float:
    ends = [*starts[1:], len(pieces)]
    return max(
        sum([p[kind] for p in pieces[a:b]])
        for a, b, kind in zip(starts, ends, kinds))


def _even_s(pieces: Sequence[Times], kinds: Sequence[int]) -> float:
    """Of each stage, if all are as long and work can be cut anywhere."""
    rates = (count / max(1e-30, sum([p[kind] for p in pieces]))
             for kind, count in Counter(kinds).items())
    return 1 / sum(rates)


def finer_pieces(facts: Facts, times: Sequence[Mapping[str, Sequence[float]]],
                 stages: int) -> list[Piece]:
    """Blocks, divided at calls before which little is live.

    Parameters
    ----------
    facts : Facts
    times : sequence of mapping of str to sequence of float
        Of each call of each class, on each kind of device.
    stages : int
        That are to be made of them.
    """
    total_s = sum(sum(times[0][b.block_class]) for b in facts.program.blocks)
    narrow = {
        name: _narrow_starts(cls, times[0][name], total_s / stages / _GRAIN)
        for name, cls in facts.classes.items()
    }
    parts: dict[str, list[Piece]] = {}
    found = []
    for number, block in enumerate(facts.program.blocks):
        name = block.block_class
        if name not in parts:
            starts = narrow[name]
            if len(facts.program.blocks) + len(starts) < stages:
                starts = list(range(1, len(times[0][name])))
            parts[name] = _parts_of(facts.classes[name],
                                    [t[name] for t in times], starts)
        found += [
            Piece(cut=f"{block.name}:{p.cut}" if p.cut else block.name,
                  block=number,
                  share=p.share,
                  times_s=p.times_s,
                  kernels=p.kernels) for p in parts[name]
        ]
    return found


def _parts_of(cls: ClassFacts, times: Sequence[Sequence[float]],
              starts: Sequence[int]) -> list[Piece]:
    """A block of a class, cut before some calls, which are the cuts."""
    labels, whole_s = list(cls.calls), sum(times[0]) or 1.0
    return [
        Piece(cut=labels[begin] if begin else "",
              block=0,
              share=sum(times[0][begin:end]) / whole_s,
              times_s=tuple(sum(t[begin:end]) for t in times),
              kernels=_kernels(cls, begin, end))
        for begin, end in itertools.pairwise([0, *starts,
                                              len(labels)])
    ]


def _kernels(cls: ClassFacts, begin: int, end: int) -> tuple[float, float]:
    """What of a block's kernels some of its calls launch, both ways."""
    works = [c.work for c in cls.calls.values()]
    forward, backward = [w.forward_kernels
                         for w in works], [w.backward_kernels for w in works]
    return (sum(forward[begin:end]) / (sum(forward) or 1),
            sum(backward[begin:end]) / (sum(backward) or 1))


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

    Exact: the longest part is one of the sums of neighbours, found by
    bisection over them; what comes before the last part is balanced again
    for itself.

    Returns
    -------
    list of int
        The first index of every part but the first; parts are not empty.

    Examples
    --------
    >>> balanced([1.0, 1.0, 2.0, 2.0], 3)
    [2, 3]
    """
    if parts < 2:
        return []
    until = [0.0, *itertools.accumulate(times_s)]
    slack = _ROUNDING * until[-1]
    mean_s = until[-1] / parts
    # Parts filled up to the mean have at most one more each.
    most = mean_s + max(times_s) + slack
    # What is left of the last parts is seldom much shorter than the mean.
    low = mean_s - 2 * max(times_s)
    sums = _sums(until, low, most)
    reached = functools.cache(functools.partial(_reached, until, slack))
    cuts, end, at = [], len(times_s), len(sums) - 1
    for part in range(parts, 1, -1):
        # What is left is not longer than the whole was, nor than its mean.
        if until[end] / part - slack < low:
            longest, low = sums[at], 0.0
            sums = _sums(until, low, most)
            at = bisect.bisect_left(sums, longest)
        least = bisect.bisect_left(sums, until[end] / part - slack, 0, at)
        at = bisect.bisect_left(sums,
                                True,
                                least,
                                at,
                                key=functools.partial(_is_enough, reached, end,
                                                      part))
        longest = sums[at] + slack
        first = bisect.bisect_left(until, until[end] - longest, 0, end)
        end = max(first, part - 1)
        cuts.append(end)
    return cuts[::-1]


def _sums(until: Sequence[float], low: float, most: float) -> list[float]:
    """Of neighbours, in order: those that are neither less nor more."""
    each = np.subtract.outer(until, until)
    found: list[float] = np.unique(each[(each >= max(low, 0.0))
                                        & (each <= most)]).tolist()
    return found


def _reached(until: Sequence[float], slack: float,
             longest: float) -> list[int]:
    """Where parts of at most this length end, from none on, each filled up."""
    found, last = [0], -1
    while found[-1] > last:
        last = found[-1]
        found.append(
            bisect.bisect_right(until, until[last] + longest + slack, last) -
            1)
    return found


def _is_enough(reached: Callable[[float], Sequence[int]], end: int, parts: int,
               longest: float) -> bool:
    """Whether parts of at most this length reach `end`."""
    ends = reached(longest)
    return ends[min(parts, len(ends) - 1)] >= end
