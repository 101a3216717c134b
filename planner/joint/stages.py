"""Stages made of blocks: where they are cut, and what no schedule beats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.pipeline.cuts import Piece, cut_pieces
from planner.pipeline.mixed_cuts import balanced_on

__all__ = ["StageCuts", "StageSums", "least_step_s"]

Array = NDArray[np.float64]

_SPLIT = ("zbh1", "zbv")
"""Schedules that put off the gradients of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSums:
    """Seconds of every stage, for one micro-batch.

    Parameters
    ----------
    forward_s, input_s, weight_s : array
    message_s : array
        Until what a stage takes is there; the first stage takes nothing.
    begin_s : array
        What each rank does before all else, once a step.
    finish_s : array
        Reducing a stage's gradients, once they are complete.
    owner : array of int
        The rank of each stage.
    """

    forward_s: Array
    input_s: Array
    weight_s: Array
    message_s: Array
    begin_s: Array
    finish_s: Array
    owner: NDArray[np.int64]

    @property
    def each_s(self) -> Array:
        """Of all that a micro-batch takes."""
        return self.forward_s + self.input_s + self.weight_s

    @property
    def soonest_s(self) -> Array:
        """Reducing the gradients of the stage of each rank with fewest."""
        ranks = len(self.begin_s)
        if ranks == len(self.owner):
            return self.finish_s
        found_s = np.full(ranks, np.inf)
        np.minimum.at(found_s, self.owner, self.finish_s)
        return found_s

    def of_ranks(self, of_stages: Array) -> Array:
        """Sums over the stages of each rank, of which there is one at least.
        """
        ranks = len(self.begin_s)
        if ranks == len(self.owner):
            return of_stages
        found = np.bincount(self.owner, of_stages, ranks)
        return found.astype(np.float64, copy=False)

    def faster(self, factor: float) -> StageSums:
        """On ranks that compute so many times as fast."""
        return replace(self,
                       forward_s=self.forward_s / factor,
                       input_s=self.input_s / factor,
                       weight_s=self.weight_s / factor)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageCuts:
    """Stages as runs of blocks, or of pieces of blocks.

    Parameters
    ----------
    cuts : tuple of str
        With which each stage but the first begins.
    starts : array of int
        The first piece of each stage.
    block : array of int
        Of each piece.
    share : array of float
        What each piece is of its block.
    kernels : array of float
        The same of the block's kernels: forward and backward (rows).
    """

    cuts: tuple[str, ...]
    starts: NDArray[np.int64]
    block: NDArray[np.int64]
    share: Array
    kernels: Array

    @staticmethod
    def of(names: Sequence[str], work_s: Array, kinds: Sequence[int],
           finer: Callable[[int], Sequence[Piece]] | None) -> StageCuts:
        """The longest stage as short as can be.

        Parameters
        ----------
        names : sequence of str
            Of the blocks.
        work_s : array of float
            Seconds of each block (columns) on each kind of device (rows).
        kinds : sequence of int
            Of device, by stage.
        finer : callable, optional
            From a number of stages to the blocks in pieces.
        """

        def refined() -> tuple[Sequence[Piece], list[tuple[float, ...]]]:
            pieces = () if finer is None else finer(len(kinds))
            share = np.array([p.share for p in pieces])
            times_s = work_s[:, [p.block for p in pieces]] * share
            return pieces, list(map(tuple, times_s.T.tolist()))

        pieces, starts = cut_pieces(list(map(tuple, work_s.T.tolist())), kinds,
                                    refined)
        return (StageCuts._at(pieces, starts) if pieces else StageCuts._whole(
            names, starts))

    @staticmethod
    def every(names: Sequence[str], stages: int, most: int) -> list[StageCuts]:
        """All ways to cut blocks into stages; none if more than `most`."""
        count = math.comb(len(names) - 1, stages - 1)
        if not 0 < count <= most:
            return []
        return [
            StageCuts._whole(names, (0, *starts))
            for starts in itertools.combinations(range(1, len(names)), stages -
                                                 1)
        ]

    @staticmethod
    def within(
            names: Sequence[str], work_s: Array, sizes: Array,
            rooms: Sequence[float],
            finer: Callable[[int], Sequence[Piece]] | None
    ) -> StageCuts | None:
        """The longest stage as short as can be where all keep to their room.

        Parameters
        ----------
        names : sequence of str
            Of the blocks.
        work_s : array of float
            Seconds of each block (columns) in each stage (rows).
        sizes : array of float
            What it takes of the stage's room.
        rooms : sequence of float
            Of each stage.
        finer : callable, optional
            As for :meth:`of`.
        """
        blocks = [
            Piece(cut=n, block=i, share=1.0, times_s=())
            for i, n in enumerate(names)
        ]
        for pieces in (blocks, finer(len(rooms)) if finer else []):
            block = np.array([p.block for p in pieces], dtype=np.int64)
            share = np.array([p.share for p in pieces])
            cuts = balanced_on(work_s[:, block] * share,
                               sizes[:, block] * share, rooms)
            if cuts is not None:
                return StageCuts._at(pieces, [0, *cuts])
        return None

    @staticmethod
    def _whole(names: Sequence[str], starts: Sequence[int]) -> StageCuts:
        """Of whole blocks."""
        count = len(names)
        return StageCuts(cuts=tuple(names[i] for i in starts[1:]),
                         starts=np.array(starts),
                         block=np.arange(count),
                         share=np.ones(count),
                         kernels=np.ones((2, count)))

    @staticmethod
    def _at(pieces: Sequence[Piece], starts: Sequence[int]) -> StageCuts:
        return StageCuts(cuts=tuple(pieces[i].cut for i in starts[1:]),
                         starts=np.array(starts),
                         block=np.array([p.block for p in pieces]),
                         share=np.array([p.share for p in pieces]),
                         kernels=np.array([p.kernels for p in pieces]).T)

    def sums(self, of_blocks: Array) -> Array:
        """Of each stage, from what blocks have, or from rows of that."""
        return self.sums_of_pieces(self.parts(of_blocks))

    def parts(self, of_blocks: Array) -> Array:
        """Of each piece, in proportion to its work."""
        parts: Array = of_blocks[..., self.block] * self.share
        return parts

    def firsts(self, of_blocks: Array) -> Array:
        """Of the block with which each stage begins; nothing of a piece."""
        whole = self.share[self.starts] == 1.0
        found: Array = of_blocks[self.block[self.starts]] * whole
        return found

    def stage_times(self, times_s: Callable[[int, int],
                                            Sequence[float]]) -> Array:
        """Several numbers of each stage (rows), from those of the blocks
        from a first on; of pieces of blocks in proportion to their work."""
        ends = [*self.starts[1:].tolist(), len(self.block)]
        found = []
        for start, end in zip(self.starts.tolist(), ends):
            block, share = self.block[start:end], self.share[start:end]
            if (share == 1.0).all():
                found.append(times_s(int(block[0]), int(block[-1]) + 1))
            else:
                each = np.array([times_s(b, b + 1) for b in block.tolist()])
                found.append(tuple((each * share[:, None]).sum(0)))
        return np.array(found)

    def most(self, of_blocks: Array) -> Array:
        """Of each stage, that of the block with most."""
        found: Array = np.maximum.reduceat(of_blocks[self.block], self.starts)
        return found

    def again_s(self, again_s: Array, made_by: Array) -> Array:
        """What each stage computes again of blocks of earlier ones."""
        first = self.block[self.starts]
        late = np.where(first[self._stage] > made_by[self.block],
                        again_s[self.block], 0.0)
        found: Array = np.maximum.reduceat(late, self.starts)
        return found

    @property
    def _stage(self) -> NDArray[np.int64]:
        """Of each piece."""
        here = np.zeros(len(self.block), dtype=np.int64)
        here[self.starts[1:]] = 1
        return np.cumsum(here)

    def sums_of_pieces(self, of_pieces: Array) -> Array:
        """Of each stage."""
        return np.add.reduceat(of_pieces, self.starts, axis=-1)


def least_step_s(stages: StageSums,
                 schedule: str,
                 microbatches: int,
                 *,
                 alone_speedup: float = 1.0) -> float:
    """Seconds that no order of the actions beats.

    A rank can start when the first micro-batch has reached its first stage;
    then it has the work of all its stages to do and the gradients of that
    which ends last to reduce. And when it has ended, the last micro-batch
    goes back through the stages before, and the first stage's gradients are
    reduced. Gradients of weights that a schedule puts off may be computed
    meanwhile, those of the first stage for the last micro-batch may not.
    Where ranks share processors, each is at best as fast as it is alone, and
    all together do no more than if none ever waited.
    """
    ranks = len(stages.begin_s)
    if alone_speedup > 1:
        alone_s = least_step_s(stages.faster(alone_speedup), schedule,
                               microbatches)
        shared_s = microbatches * float(stages.each_s.sum()) / ranks
        return max(
            alone_s,
            float(stages.begin_s[0]) + shared_s + float(stages.finish_s.min()))
    is_split = schedule in _SPLIT
    back_s = stages.input_s + (0.0 if is_split else stages.weight_s)
    there_s = stages.message_s.cumsum()
    # A rank's first stage has its own number in all named schedules.
    head_s = (stages.forward_s.cumsum() - stages.forward_s + there_s)[:ranks]
    tail_s = (back_s.cumsum() - back_s + there_s)[:ranks]
    ended_s = head_s + microbatches * stages.of_ranks(stages.each_s)
    through_s = ended_s + tail_s
    if is_split:
        late_s = microbatches * stages.of_ranks(stages.weight_s)
        through_s += stages.weight_s[0] - late_s
    return float(stages.begin_s[0] + max((ended_s + stages.soonest_s).max(),
                                         through_s.max() + stages.finish_s[0]))
