"""Time and memory of a combination, from the table of its cell.

Stages are runs of blocks of about equal work. Of the schedule only what no
order can beat is counted, or it is simulated. What data parallelism moves once
a step is paid parameter by parameter: by each stage when its gradients are
complete, as the price of a pipeline has it. Parameters that are gathered again
are so twice a micro-batch, at best while their stage computes.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from planner.joint.links import Links, Place, place_of
from planner.joint.space import Point
from planner.joint.stages import StageCuts, StageSums, least_step_s
from planner.joint.tables import BlockTable, BlockTimes
from planner.pipeline.cuts import Piece
from planner.schedule.estimate import peak_in_flight
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.named import make_schedule
from planner.schedule.once import delay_s, reductions
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes

__all__ = ["CellScores", "Graphs", "Score", "in_flight", "kept_whole"]

Array = NDArray[np.float64]
_Times = BlockTable | BlockTimes
_CutBy = tuple[tuple[int, ...], bool, tuple[int, ...]]
"""Kinds of device by stage, whether blocks run again, and which kinds."""

_MOVED = MappingProxyType({
    "ddp": ("all_reduce", ),
    "zero1": ("reduce_scatter", "all_gather"),
    "fsdp": ("reduce_scatter", "all_gather", "all_gather"),
})
"""What data parallelism moves in a step without stages."""

_LONG = 2**13
"""Stages times micro-batches, from which a bound must do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A combination with what it takes at least.

    Parameters
    ----------
    point : Point
    time_s : float
        Of a step, no more than it takes in these layouts.
    memory_bytes : float
        Of the rank with least room, less what its device has more than the
        smallest.
    """

    point: Point
    time_s: float
    memory_bytes: float


class Graphs:
    """Named schedules, each made once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], ActionGraph] = {}

    def __call__(self, point: Point) -> ActionGraph:
        key = (point.schedule, point.pp, point.microbatches, point.chunks)
        if key not in self._known:
            self._known[key] = build_graph(
                make_schedule(point.schedule,
                              ranks=point.pp,
                              microbatches=point.microbatches,
                              chunks=point.chunks))
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Bytes of memory: of each block, always and of a micro-batch in flight;
    how many are in flight on each rank; and what there is beside."""

    fixed: Array
    kept: Array
    flying: Array
    beside: float


class CellScores:
    """Scores the combinations of one cell.

    Parameters
    ----------
    table : BlockTable
    links : Links
    repeated : array of bool
        Which blocks are of a class that repeats.
    finer : callable, optional
        From a number of stages to the blocks in pieces, where stages may
        begin inside of blocks.
    """

    def __init__(
            self,
            table: BlockTable,
            links: Links,
            repeated: NDArray[np.bool_],
            finer: Callable[[int], Sequence[Piece]] | None = None) -> None:
        self.table = table
        self._links = links
        self._repeated = repeated
        self._finer = finer
        self._given: StageCuts | None = None
        self._cuts: dict[_CutBy, StageCuts] = {}
        self._fitting: dict[Point, StageCuts] = {}
        self._moved: dict[tuple[str, Place], Array] = {}
        self._known: dict[tuple[object, ...], StageSums] = {}

    def cut_at(self, cuts: StageCuts) -> CellScores:
        """The same of combinations with so many stages, cut there."""
        found = copy.copy(self)
        found._given = cuts
        return found

    def of_table(self, table: BlockTable) -> CellScores:
        """The same of another table of the cell."""
        found = CellScores(table, self._links, self._repeated, self._finer)
        if all(
                map(np.array_equal, table.trained_bytes,
                    self.table.trained_bytes)):
            found._moved = self._moved
        return found

    def work_s(self, point: Point) -> Array:
        """Of a micro-batch, by block."""
        return self._works_s(point, [self.table])[0]

    def even_cuts(self, work_s: Array, point: Point) -> StageCuts:
        """With which stages of blocks that take so long are about even."""
        stages = point.pp * point.chunks
        return StageCuts.of(self.table.blocks, work_s[None], (0, ) * stages,
                            self._finer)

    def cuts(self, point: Point) -> StageCuts:
        """Where a combination's stages begin.

        On devices of several kinds, whose memory is not that of their speed,
        stages of equal time may not fit while others do.
        """
        if self._given is not None:
            return self._given
        if not self._links.is_mixed or point.chunks > 1:
            return self._equal_cuts(point)
        if point not in self._fitting:
            self._fitting[point] = (self._cuts_that_fit(point)
                                    or self._equal_cuts(point))
        return self._fitting[point]

    def _cuts_that_fit(self, point: Point) -> StageCuts | None:
        """Of stages of which each rank has one; None where none fit, or
        where those of equal time do."""
        held, place = self._held(point), place_of(point, "pp")
        sizes = held.fixed + held.flying[:, None] * held.kept
        rooms = self._links.limit_bytes(place) - held.beside
        equal = np.array([self._equal_cuts(point).sums(row) for row in sizes])
        if (equal.diagonal() <= rooms).all():
            return None
        times, kinds = self._devices(point)
        work_s = self._works_s(point, times)[list(kinds)]
        return StageCuts.within(self.table.blocks, work_s, sizes,
                                rooms.tolist(), self._finer)

    def _equal_cuts(self, point: Point) -> StageCuts:
        """With which stages take about equally long."""
        times, kinds = self._devices(point)
        key = (kinds, point.recompute, tuple(map(id, times)))
        if key not in self._cuts:
            self._cuts[key] = StageCuts.of(self.table.blocks,
                                           self._works_s(point, times), kinds,
                                           self._finer)
        return self._cuts[key]

    def _devices(self, point: Point) -> tuple[list[_Times], tuple[int, ...]]:
        """Times on each kind of device, and which of them each stage has."""
        stages = point.pp * point.chunks
        if not self._links.is_mixed:
            return [self.table], (0, ) * stages
        ranks = self._links.devices(place_of(point, "pp"))
        kinds = list(dict.fromkeys(ranks))
        return ([self.table.on(k) for k in kinds],
                tuple(kinds.index(ranks[r]) for r in _owners(point).tolist()))

    def _sums(self, point: Point, values: Callable[[_Times], Array]) -> Array:
        """Of each stage, from what blocks take on its device."""
        if not self._links.is_mixed:
            return self.cuts(point).sums(values(self.table))
        times, kinds = self._devices(point)
        rows = np.array([self.cuts(point).sums(values(t)) for t in times])
        return rows[list(kinds), np.arange(len(kinds))]

    def score(self, point: Point) -> Score:
        """What a combination takes at least."""
        return Score(point=point,
                     time_s=self.time_s(point),
                     memory_bytes=self.memory_bytes(point))

    def time_s(self, point: Point) -> float:
        """Of a step, as `Score` has it."""
        if not point.is_staged:
            return self._overlapped_s(point)
        return least_step_s(self._stages(point),
                            point.schedule,
                            point.microbatches,
                            alone_speedup=self._links.alone_speedup)

    def _overlapped_s(self, point: Point) -> float:
        """Of a step of all blocks, whose messages are at best hidden.

        What is hidden makes computing longer by the interference, what is
        not is waited for; and messages follow each other. Of those of data
        parallelism many are packed together, at best all.
        """
        work_s = self._sums(point,
                            lambda t: t.work_s + self._again_s(point, t))
        place, size = place_of(point, "dp"), float(self.table.own_bytes.sum())
        moved_s = sum(
            self._links.time_s(kind, size, place)
            for kind in _MOVED[point.sharding])
        return max(
            float(work_s.sum()) + self._links.interference * moved_s, moved_s)

    def simulated_s(self, point: Point, graphs: Graphs) -> float:
        """Seconds of a step, its schedule simulated; 0 where it is long."""
        if (not point.is_staged
                or point.pp * point.chunks * point.microbatches > _LONG):
            return 0.0
        stages = self._stages(point)
        found = simulate(
            graphs(point),
            StageTimes.in_parts(stages.forward_s.tolist(),
                                stages.input_s.tolist(),
                                stages.weight_s.tolist(),
                                alone_speedup=self._links.alone_speedup),
            p2p_s={
                (i, i + 1): s
                for i, s in enumerate(stages.message_s[1:].tolist())
            })
        ends_s = [e for _, _, e in reductions(found, stages.finish_s.tolist())]
        return delay_s(found, stages.begin_s.tolist()) + max(ends_s)

    def _works_s(self, point: Point, times: Sequence[_Times]) -> Array:
        """Of a micro-batch on several kinds of device, by block."""
        return np.array([t.work_s + self._again_s(point, t) for t in times])

    def _again_s(self, point: Point, times: _Times) -> Array:
        """Forward of the blocks that run once more."""
        return times.forward_s * (self._repeated & point.recompute)

    def _stages(self, point: Point) -> StageSums:
        place, given = place_of(point, "pp"), self._given
        key = (point.is_staged, point.chunks, point.recompute, place,
               point.sharding, place_of(point,
                                        "dp"), point.schedule == "zbv", given)
        if key not in self._known:
            self._known[key] = self._sums_of(point)
        return self._known[key]

    def _sums_of(self, point: Point) -> StageSums:
        table, cuts = self.table, self.cuts(point)
        messages = [0.0] * (point.pp * point.chunks)
        place = place_of(point, "pp")
        for number, start in enumerate(cuts.starts.tolist()):
            if number and cuts.share[start] == 1.0:
                messages[number] = self._links.time_s(
                    "send", float(table.taken_bytes[cuts.block[start]]), place)
        gathers_s = cuts.sums(self._gathers_s(point))
        begin_s, share, moved_s = self._moves(point)
        return StageSums(
            forward_s=np.maximum(gathers_s,
                                 self._sums(point, lambda t: t.forward_s)),
            input_s=np.maximum(
                gathers_s,
                self._sums(point,
                           lambda t: t.input_s + self._again_s(point, t))),
            weight_s=self._sums(point, lambda t: t.weight_s),
            message_s=np.array(messages),
            begin_s=self._of_rank(point, begin_s),
            finish_s=self._sums(point, lambda t: t.once_s * share + moved_s),
            owner=_owners(point))

    def _of_rank(self, point: Point, values: Array) -> Array:
        """Sums over the blocks of each rank."""
        return self._by_rank(point, self.cuts(point).sums(values))

    def _by_rank(self, point: Point, values: Array) -> Array:
        """Sums over the stages of each rank."""
        found = np.zeros(point.pp)
        np.add.at(found, _owners(point), values)
        return found

    def _gathers_s(self, point: Point) -> Array:
        """Of each block's parameters, before either of its ways."""
        if point.sharding != "fsdp":
            return np.zeros(len(self.table.forward_s))
        return self._moves_s("all_gather", point)

    def _moves(self, point: Point) -> tuple[Array, float, Array]:
        """What is moved once a step: by data parallelism before a block's
        parameters are used, which part of what the cell's axes move, and by
        data parallelism once it has gradients."""
        nothing = np.zeros(len(self.table.once_s))
        if point.sharding == "ddp":
            return nothing, 1.0, self._moves_s("all_reduce", point)
        # Shards may be summed over the other axes after they are cut.
        share, moved_s = 1 / point.dp, self._moves_s("reduce_scatter", point)
        if point.sharding == "fsdp":
            return nothing, share, moved_s
        return self._moves_s("all_gather", point), share, moved_s

    def _moves_s(self, kind: str, point: Point) -> Array:
        """Of each block's parameters, one after the other."""
        place = place_of(point, "dp")
        key = (kind, place)
        if key not in self._moved:
            of_kind = np.array([
                sum(n * self._links.time_s(kind, size, place)
                    for size, n in Counter(sizes.tolist()).items())
                for sizes in self.table.trained_bytes
            ])
            self._moved[key] = of_kind[self.table.kind]
        return self._moved[key]

    def memory_bytes(self, point: Point) -> float:
        """Of the rank with least room, as `Score` has it."""
        held = self._held(point)
        total = (self._of_rank(point, held.fixed) +
                 held.flying * self._of_rank(point, held.kept))
        spare = self._links.spare_bytes(place_of(point, "pp"))
        return float((total - spare).max()) + held.beside

    def _held(self, point: Point) -> _Held:
        """What ranks hold in memory."""
        table = self.table
        again = self._repeated & point.recompute
        kept = np.where(again, table.kept_bytes, table.saved_bytes)
        peak = table.transient_bytes + np.where(again, table.saved_bytes, 0.0)
        rest, state = kept_whole(point.sharding, point.dp)
        rest += point.sharding == "zero1"
        gathered = (float(table.parameter_bytes.max())
                    if point.sharding == "fsdp" else 0.0)
        flying = in_flight(point.schedule, point.pp, point.microbatches,
                           point.chunks)
        return _Held(fixed=table.parameter_bytes * rest +
                     table.gradient_bytes + table.state_bytes * state,
                     kept=kept / point.chunks,
                     flying=np.asarray(flying, dtype=np.float64),
                     beside=gathered + float(peak.max()))


def kept_whole(sharding: str, data_ranks: int) -> tuple[float, float]:
    """What part of parameters, and of optimizer state, a rank has."""
    return (1.0, 1.0) if sharding == "ddp" else (1.0 / data_ranks, ) * 2


@functools.cache
def in_flight(schedule: str, ranks: int, microbatches: int,
              chunks: int) -> NDArray[np.int64]:
    """Most parts of micro-batches that each rank holds at once."""
    return peak_in_flight(schedule,
                          ranks=ranks,
                          microbatches=microbatches,
                          chunks=chunks,
                          rank=np.arange(ranks))


def _owners(point: Point) -> NDArray[np.int64]:
    """The rank of each stage."""
    return _owners_of(point.schedule, point.pp, point.chunks)


@functools.cache
def _owners_of(schedule: str, ranks: int, chunks: int) -> NDArray[np.int64]:
    there = np.arange(ranks)
    if schedule == "zbv":
        return np.concatenate([there, there[::-1]])
    return np.tile(there, chunks)
