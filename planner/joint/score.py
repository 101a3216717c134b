"""Time and memory of a combination, from the table of its cell.

Stages are runs of blocks of about equal work. Of the schedule only what no
order can beat is counted, or it is simulated. What data parallelism moves once
a step is paid by each stage when its gradients are complete: at best divided
evenly and packed, or, more closely, as the price of a pipeline has it
(`planner.joint.once`). Parameters that are gathered again are so twice a
micro-batch, at best while their stage computes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from planner.joint.cell_memory import LONG, CellMemory
from planner.joint.held import flying, owners_of
from planner.joint.links import Links, Place, place_of
from planner.joint.once import Once, Resting
from planner.joint.space import Point
from planner.joint.stages import StageCuts, StageSums, least_step_s
from planner.joint.tables import BlockTable, BlockTimes
from planner.pipeline.cuts import Piece
from planner.schedule.actions import chain
from planner.schedule.checked import checked_graph
from planner.schedule.once import delay_s, reductions
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes

__all__ = ["COPIED", "CellScores", "Score"]

Array = NDArray[np.float64]
_Times = BlockTable | BlockTimes

_MOVED = MappingProxyType({
    "ddp": ("all_reduce", ),
    "zero1": ("reduce_scatter", "all_gather"),
    "fsdp": ("reduce_scatter", "all_gather", "all_gather"),
})
"""What data parallelism moves in a step without stages."""

_MOVED_LESS = 0.1
"""Part of a step without stages that layouts may save which see what data
parallelism moves: a cell's may use parameters whole that these divide. Of
Mixtral on 64 x 4 it was 0.037, of Llama 8B 0.016."""

COPIED = 0.04
"""Part of the work of a step that cells copy where positions are joined, and
plans without stages need not, which may divide the rows instead: of Llama 70B
on 32 x 8 it was 0.031."""


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
    once : Once, optional
        What is moved once a step; bounded by what is trained if left out.
    """

    def __init__(self,
                 table: BlockTable,
                 links: Links,
                 repeated: NDArray[np.bool_],
                 finer: Callable[[int], Sequence[Piece]] | None = None,
                 once: Once | None = None) -> None:
        self.table = table
        self._links = links
        self._repeated = repeated
        self._finer, self._once = finer, once
        self._given: StageCuts | None = None
        self._cuts: dict[tuple[object, ...], StageCuts] = {}
        self._fitting: dict[Point, StageCuts] = {}
        self._moved: dict[tuple[str, Place, StageCuts], Array] = {}
        self._trained: dict[StageCuts, list[float]] = {}
        self._known: dict[tuple[object, ...], StageSums] = {}
        self._own: dict[tuple[object, ...], tuple[Array, ...]] = {}
        self._messages: dict[tuple[StageCuts, Place], Array] = {}
        self._close: dict[tuple[object, ...], StageSums] = {}
        self._memory = CellMemory(table, links, repeated)

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
            found._moved, found._trained = self._moved, self._trained
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
        place = place_of(point, "pp")
        sizes = self._memory.of_blocks(point.recompute).at_once(
            point,
            flying(point)[:, None])
        taken = flying(point) * float(self.table.taken_bytes.max())
        rooms = (self._links.limit_bytes(place) -
                 self._memory.beside_bytes(point) - taken)
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
        key: tuple[object, ...] = (len(kinds), point.recompute)
        if self._links.is_mixed:
            key = (*key, kinds, *map(id, times))
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
                tuple(
                    kinds.index(ranks[r]) for r in owners_of(point).tolist()))

    def _sums(self, point: Point, values: Callable[[_Times], Array]) -> Array:
        """Of each stage, from what blocks take on its device, or from rows of
        that."""
        if not self._links.is_mixed:
            return self.cuts(point).sums(values(self.table))
        times, kinds = self._devices(point)
        each = np.array([self.cuts(point).sums(values(t)) for t in times])
        found: Array = np.moveaxis(each, 0, -1)[...,
                                                np.arange(len(kinds)),
                                                list(kinds)]
        return found

    def score(self, point: Point) -> Score:
        """What a combination takes at least."""
        return Score(point=point,
                     time_s=self.time_s(point),
                     memory_bytes=self.memory_bytes(point))

    def closely(self, point: Point) -> Score:
        """The same with parameters where they rest at best; about so without
        stages, where layouts may change with data parallelism in sight."""
        if self._once is None or not point.is_staged and self._links.is_mixed:
            return self.score(point)
        resting = self._once.of(point)
        if not point.is_staged:
            resting_s = (1 - _MOVED_LESS) * self._step_s(point, resting)
            return Score(point=point,
                         time_s=max(self.time_s(point), resting_s),
                         memory_bytes=self.memory_bytes(point))
        return Score(point=point,
                     time_s=least_step_s(
                         self._closely(point),
                         point.schedule,
                         point.microbatches,
                         alone_speedup=self._links.alone_speedup),
                     memory_bytes=self._memory.resting_bytes(
                         point, self.cuts(point), resting,
                         functools.partial(self._by_rank, point)))

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
        host_s = self._both_host_s(point)
        kept = 1 - COPIED * self.table.cell.has_rows_to_divide
        work_s = (self._sums(
            point, lambda t: kept * t.work_s + self._again_s(point, t)) +
                  host_s[0] + host_s[1] - self.table.counting_s)
        place, size = place_of(point, "dp"), float(self.table.own_bytes.sum())
        moved_s = sum(
            self._links.time_s(kind, size, place)
            for kind in _MOVED[point.sharding])
        return max(
            float(work_s.sum()) + self._links.interference * moved_s, moved_s)

    def simulated_s(self, point: Point) -> float:
        """Seconds of a step, its schedule simulated; 0 where it is long."""
        count = point.pp * point.chunks
        if not point.is_staged or count * point.microbatches > LONG:
            return 0.0
        stages = (self._stages(point)
                  if self._once is None else self._closely(point))
        found = simulate(
            checked_graph(point.schedule,
                          ranks=point.pp,
                          microbatches=point.microbatches,
                          chunks=point.chunks,
                          stages=count,
                          edges=chain(count)),
            StageTimes.in_parts(stages.forward_s.tolist(),
                                stages.input_s.tolist(),
                                stages.weight_s.tolist(),
                                apart_s=self._links.action_s,
                                alone_speedup=self._links.alone_speedup,
                                replicas=point.dp,
                                reduce_s=stages.finish_s.tolist()),
            p2p_s={
                (i, i + 1): s
                for i, s in enumerate(stages.message_s[1:].tolist())
            })
        ends_s = [e for _, _, e in reductions(found, stages.finish_s.tolist())]
        return delay_s(found, stages.begin_s.tolist()) + max(ends_s)

    def _works_s(self, point: Point, times: Sequence[_Times]) -> Array:
        """Of a micro-batch on several kinds of device, by block."""
        return np.array(
            [t.work_s + t.sums_s + self._again_s(point, t) for t in times])

    def _again_s(self, point: Point, times: _Times) -> Array:
        """Of the blocks that run once more."""
        return times.rerun_s * (self._repeated & point.recompute)

    def _both_host_s(self, point: Point) -> Array:
        """What launching adds to both ways (rows) through each stage, what
        runs once more in the backward.

        A host waits for its device within each piece of a block.
        """
        cuts, table = self.cuts(point), self.table
        first, last = cuts.kernels
        again = table.forward_launches * (self._repeated & point.recompute)
        kernels = np.array([
            table.forward_launches[cuts.block] * first,
            again[cuts.block] * first +
            table.backward_launches[cuts.block] * last
        ])
        device_s = np.array([
            table.forward_s,
            table.input_s + table.weight_s + self._again_s(point, table)
        ])
        return cuts.sums_of_pieces(
            self._links.host_s(cuts.parts(device_s), kernels))

    def _stages(self, point: Point) -> StageSums:
        key = self._sums_key(point)
        if key not in self._known:
            self._known[key] = self._sums_of(point)
        return self._known[key]

    def _sums_key(self, point: Point) -> tuple[object, ...]:
        """What sums over stages depend on."""
        return (point.microbatches, point.chunks, point.recompute,
                place_of(point, "pp"), point.sharding, place_of(point, "dp"),
                point.schedule == "zbv", self._given)

    def _sums_of(self, point: Point) -> StageSums:
        own = self._own_sums(point)
        forward_s, input_s = own.forward_s, own.input_s
        begin_s, share, moved_s = self._moves(point)
        if point.sharding == "fsdp":
            gathers_s = self._moves_s("all_gather", point)
            forward_s = np.maximum(gathers_s, forward_s)
            input_s = np.maximum(gathers_s, input_s)
        return StageSums(forward_s=forward_s,
                         input_s=input_s,
                         weight_s=own.weight_s,
                         message_s=own.message_s,
                         begin_s=self._by_rank(point, begin_s),
                         finish_s=np.maximum(own.finish_s * share, moved_s),
                         owner=own.owner)

    def _closely(self, point: Point) -> StageSums:
        """The same with parameters where they rest at best."""
        key = self._sums_key(point)
        if key not in self._close:
            assert self._once is not None
            self._close[key] = self._rested(point, self._once.of(point))
        return self._close[key]

    def _step_s(self, point: Point, resting: Resting) -> float:
        """Of a step without stages, all of which is in order."""
        table = self.table
        return resting.step_s(
            table.uncounted_forward_s(table),
            table.input_s + table.weight_s + self._again_s(point, table))

    def _rested(self, point: Point, resting: Resting) -> StageSums:
        own, cuts = self._own_sums(point), self.cuts(point)
        begin_s, finish_s = cuts.stage_times(resting.once_s).T
        forward_s, input_s = own.forward_s, own.input_s
        if resting.is_gathered_again:
            forward_s, input_s = self._fed(point, resting)
        return replace(own,
                       forward_s=forward_s +
                       cuts.again_s(self.table.again_s, self.table.made_by),
                       input_s=input_s,
                       begin_s=self._by_rank(point, begin_s),
                       finish_s=finish_s)

    def _fed(self, point: Point, resting: Resting) -> tuple[Array, Array]:
        """Both ways through stages whose parameters are gathered for them,
        the backward without the gradients of weights."""
        table, cuts = self.table, self.cuts(point)
        weight_s = cuts.sums(table.weight_s)
        back_s = (table.input_s + table.weight_s + self._again_s(point, table))
        forward_s, backward_s = cuts.stage_times(
            lambda first, end: resting.fed_s(first, end, table.forward_s,
                                             back_s)).T
        action_s = self._links.action_s
        return (forward_s + action_s,
                np.maximum(0.0, backward_s - weight_s) + action_s)

    def _own_sums(self, point: Point) -> StageSums:
        """Of the cell's axes, without data parallelism."""
        place, cuts = place_of(point, "pp"), self.cuts(point)
        key = (cuts, point.recompute,
               (place, point.schedule == "zbv") if self._links.is_mixed else
               ())
        if key not in self._own:
            self._own[key] = self._each_sum(point)
        forward_s, input_s, weight_s, finish_s, adding_s = self._own[key]
        return StageSums(forward_s=forward_s,
                         input_s=input_s,
                         weight_s=weight_s + adding_s * point.adding,
                         message_s=self._messages_s(cuts, place),
                         begin_s=_nothing(point.pp),
                         finish_s=finish_s,
                         owner=owners_of(point))

    def _each_sum(self, point: Point) -> tuple[Array, ...]:
        """Rows of stages: both ways, gradients of weights, what is moved once
        a step, and adding gradients to others."""
        forward_s, input_s, *rest = self._sums(
            point, lambda t: np.array([
                t.forward_s, t.input_s + self._again_s(point, t), t.weight_s, t
                .once_s, t.sums_s
            ]))
        action_s, host_s = self._links.action_s, self._both_host_s(point)
        return (forward_s + host_s[0] + action_s,
                input_s + host_s[1] + action_s, *rest)

    def _messages_s(self, cuts: StageCuts, place: Place) -> Array:
        """Until each stage has what its first block takes of the last one of
        the stage before; of pieces of blocks that is not known."""
        if (cuts, place) not in self._messages:
            sizes = self.table.handed_bytes[cuts.block[cuts.starts]].tolist()
            times_s = self._times_s("send", sizes, place)
            times_s[cuts.share[cuts.starts] < 1.0] = 0.0
            times_s[0] = 0.0
            self._messages[cuts, place] = times_s
        return self._messages[cuts, place]

    def _by_rank(self, point: Point, values: Array) -> Array:
        """Sums over the stages of each rank, of rows of stages, too."""
        if point.chunks == 1:
            return values
        if values.ndim > 1:
            return np.array([self._by_rank(point, v) for v in values])
        found = np.bincount(owners_of(point), values, point.pp)
        return found.astype(np.float64, copy=False)

    def _moves(self, point: Point) -> tuple[Array, float, Array]:
        """What is moved once a step by each stage: by data parallelism before
        its parameters are used, which part of what the cell's axes move, and
        by data parallelism once it has gradients."""
        nothing = _nothing(point.pp * point.chunks)
        # Shards may be summed over the other axes after they are cut, and
        # what is whole be gathered before a step.
        if point.sharding == "ddp":
            return nothing, 0.5, self._moves_s("all_reduce", point)
        share, moved_s = 1 / point.dp, self._moves_s("reduce_scatter", point)
        if point.sharding == "fsdp":
            return nothing, share, moved_s
        return self._moves_s("all_gather", point), share, moved_s

    def _moves_s(self, kind: str, point: Point) -> Array:
        """Of each stage's parameters, packed into one message."""
        place, cuts = place_of(point, "dp"), self.cuts(point)
        key = (kind, place, cuts)
        if key not in self._moved:
            if cuts not in self._trained:
                table = self.table
                sizes = np.array([s.sum() for s in table.trained_bytes])
                self._trained[cuts] = cuts.sums(sizes[table.kind]).tolist()
            self._moved[key] = self._times_s(kind, self._trained[cuts], place)
        return self._moved[key]

    def _times_s(self, kind: str, sizes: Sequence[float],
                 place: Place) -> Array:
        """Of messages of these sizes, each size asked for once."""
        each = {s: self._links.time_s(kind, s, place) for s in set(sizes)}
        return np.array([each[s] for s in sizes])

    def memory_bytes(self, point: Point) -> float:
        """Of the rank with least room, as `Score` has it."""
        return self._memory.least_room_bytes(
            point, self.cuts(point), functools.partial(self._by_rank, point))


@functools.cache
def _nothing(count: int) -> Array:
    """Of so many stages or ranks."""
    found = np.zeros(count)
    found.flags.writeable = False
    return found
