"""Time and memory of a combination, from the block tables.

Stages are runs of blocks of about equal work, the schedule takes its closed
form with the slowest stage's times, and what data parallelism moves is paid
once a step (for parameters that are gathered again, twice a micro-batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cluster import axis_link
from planner.cluster.axis import AxisInfo
from planner.cluster.spec import ClusterSpec
from planner.cost.collective import collective_time_s
from planner.joint.space import Point
from planner.joint.tables import BlockTable
from planner.schedule.estimate import estimate, peak_in_flight

__all__ = ["Score", "Scorer", "cut_evenly"]

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A combination with what it is expected to take."""

    point: Point
    time_s: float
    memory_bytes: float


class Scorer:
    """Scores combinations on one cluster.

    Parameters
    ----------
    tables : mapping of (int, int) to BlockTable
        By tensor-parallel size and rows.
    cluster : ClusterSpec
    repeated : array of bool
        Which blocks are of a class that repeats.
    """

    def __init__(self, tables: Mapping[tuple[int, int], BlockTable],
                 cluster: ClusterSpec, repeated: NDArray[np.bool_]) -> None:
        self._tables = tables
        self._cluster = cluster
        self._repeated = repeated
        self._stages: dict[tuple[int, int, int, bool], Places] = {}
        self._links: dict[tuple[tuple[int, ...], int], AxisInfo] = {}

    def score(self, point: Point) -> Score:
        """Seconds of a step and bytes of the rank that takes most."""
        table = self._tables[point.tp, point.rows]
        again = np.where(self._repeated & point.recompute, 1.0, 0.0)
        work = table.work_s + again * table.forward_s
        count = point.pp * point.chunks
        starts = self._cut(point, work, count)
        add = np.add.reduceat
        forward = add(table.forward_s, starts)
        inputs = add(table.input_s + again * table.forward_s, starts)
        weight = add(table.weight_s, starts)
        slowest = int(np.argmax(forward + inputs + weight))
        message_s = collective_time_s(
            "send", float(table.taken_bytes[starts].max()), self._link(
                point, 0)) if point.pp > 1 else 0.0
        moved_s = self._gathers_s(point, table, starts)
        made = estimate(point.schedule,
                        ranks=point.pp,
                        microbatches=point.microbatches,
                        chunks=point.chunks,
                        forward_s=forward[slowest] + moved_s,
                        input_s=inputs[slowest] + moved_s,
                        weight_s=weight[slowest],
                        p2p_s=message_s)
        return Score(point=point,
                     time_s=float(made.time_s) +
                     self._once_s(point, table, starts),
                     memory_bytes=self._memory(point, table, starts, again))

    def _cut(self, point: Point, work: Array, count: int) -> Places:
        key = (point.tp, point.rows, count, point.recompute)
        if key not in self._stages:
            self._stages[key] = np.array(cut_evenly(work, count),
                                         dtype=np.int64)
        return self._stages[key]

    def _link(self, point: Point, axis: int) -> AxisInfo:
        sizes = point.mesh.sizes
        if (sizes, axis) not in self._links:
            self._links[sizes, axis] = axis_link(self._cluster, sizes, axis)
        return self._links[sizes, axis]

    def _of_rank(self, point: Point, values: Array, starts: Places) -> Array:
        """Sums over the stages of each rank."""
        sums = np.add.reduceat(values, starts)
        rows = sums.reshape(point.chunks, point.pp)
        if point.schedule == "zbv":
            rows = np.stack([rows[0], rows[1][::-1]])
        return rows.sum(0)

    def _gathers_s(self, point: Point, table: BlockTable,
                   starts: Places) -> float:
        if point.sharding != "fsdp":
            return 0.0
        whole = float(np.add.reduceat(table.parameter_bytes, starts).max())
        return collective_time_s("all_gather", whole, self._link(point, 1))

    def _once_s(self, point: Point, table: BlockTable,
                starts: Places) -> float:
        if point.dp == 1:
            return 0.0
        link = self._link(point, 1)
        size = float(self._of_rank(point, table.gradient_bytes, starts).max())
        if point.sharding == "ddp":
            return collective_time_s("all_reduce", size, link)
        time_s = collective_time_s("reduce_scatter", size, link)
        if point.sharding == "zero1":
            time_s += collective_time_s("all_gather", size, link)
        return time_s

    def _memory(self, point: Point, table: BlockTable, starts: Places,
                again: Array) -> float:
        kept = np.where(again > 0, table.kept_bytes, table.saved_bytes)
        peak = table.transient_bytes + np.where(again > 0, table.saved_bytes,
                                                0.0)
        sharded = {"ddp": (1, 1), "zero1": (1, point.dp)}
        whole, state = sharded.get(point.sharding, (point.dp, point.dp))
        rest = self._of_rank(point, table.parameter_bytes, starts)
        total = (rest / whole +
                 self._of_rank(point, table.gradient_bytes, starts) +
                 self._of_rank(point, table.state_bytes, starts) / state)
        if point.sharding != "ddp":
            total += (rest if point.sharding == "zero1" else 2 *
                      float(table.parameter_bytes.max()))
        flying = peak_in_flight(point.schedule,
                                ranks=point.pp,
                                microbatches=point.microbatches,
                                chunks=point.chunks,
                                rank=np.arange(point.pp))
        each = self._of_rank(point, kept, starts) / point.chunks
        return float((total + flying * each).max() + peak.max())


def cut_evenly(work: Array, parts: int) -> list[int]:
    """The first block of each part, the largest part as small as can be.

    By bisection on its size, to within a millionth.
    """
    low, high = float(work.max()), float(work.sum())
    for _ in range(40):
        middle = (low + high) / 2
        if len(_filled(work, middle)) <= parts:
            high = middle
        else:
            low = middle
        if high - low <= 1e-6 * high:
            break
    starts = _filled(work, high)
    # Fewer parts than asked for: split what can be split, from the end.
    taken = set(starts)
    for candidate in range(len(work) - 1, 0, -1):
        if len(taken) == parts:
            break
        taken.add(candidate)
    return sorted(taken)


def _filled(work: Array, limit: float) -> list[int]:
    starts, held = [0], 0.0
    for i, size in enumerate(work.tolist()):
        if held + size > limit * (1 + 1e-12) and i > starts[-1]:
            starts.append(i)
            held = 0.0
        held += size
    return starts
