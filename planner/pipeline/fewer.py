"""A pipeline for a batch that has fewer micro-batches than its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from planner.ir.pipeline import PipelineSpec
from planner.schedule.actions import drop_microbatches
from planner.schedule.named import make_schedule

__all__ = ["possible_counts", "with_fewer"]


def possible_counts(rows: int, microbatches: int) -> Iterator[int]:
    """Numbers of micro-batches to try for a batch, the plan's own first.

    Parameters
    ----------
    rows : int
        Of the whole batch.
    microbatches : int
        Of the plan.

    Examples
    --------
    >>> list(possible_counts(6, 4)), list(possible_counts(5, 4))
    ([4, 3, 2, 1], [4, 1])
    """
    yield microbatches
    yield from (n for n in range(microbatches - 1, 0, -1) if rows % n == 0)


def with_fewer(pipeline: PipelineSpec, ranks: int,
               microbatches: int) -> PipelineSpec:
    """The same stages in the same order, for the first micro-batches only.

    Parameters
    ----------
    pipeline : PipelineSpec
    ranks : int
        Of its axis.
    microbatches : int
        No more than it has.
    """
    if microbatches == pipeline.microbatches:
        return pipeline
    schedule = make_schedule(pipeline.schedule,
                             ranks=ranks,
                             microbatches=pipeline.microbatches,
                             chunks=pipeline.chunks)
    kept = drop_microbatches(schedule.ranks, microbatches)
    return dataclasses.replace(pipeline,
                               schedule=f"{kept}\n",
                               microbatches=microbatches)
