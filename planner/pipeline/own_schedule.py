"""A schedule for the stages of a pipeline as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from planner.cluster.axis import AxisInfo
from planner.ir.errors import InfeasiblePlan
from planner.ir.pipeline import PipelineSpec
from planner.pipeline.build import Pipelined
from planner.pipeline.messages import Messages
from planner.pipeline.stage_cost import StageCost
from planner.schedule.space import placements
from planner.schedule.synthesise import synthesise
from planner.schedule.times import StageMemory, StageTimes

__all__ = ["with_own_schedule"]

_EFFORT = 100_000
"""About a second; more effort rarely finds more for a few dozen actions."""


def with_own_schedule(pipeline: PipelineSpec,
                      found: Pipelined,
                      costs: Sequence[StageCost],
                      link: AxisInfo,
                      *,
                      limits_bytes: Sequence[float],
                      action_s: float = 0.0) -> PipelineSpec:
    """Synthesise a schedule for priced stages; the plan then holds its text.

    Parameters
    ----------
    pipeline : PipelineSpec
    found : Pipelined
    costs : sequence of StageCost
        Of every stage.
    link : AxisInfo
        Of the pipeline's axis.
    limits_bytes : sequence of float
        Of memory, for each rank of that axis. Where no order of the
        micro-batches keeps to them, it is left to the caller to find that
        the plan does not fit.
    action_s : float
        Of an action that does nothing.
    """
    saved = tuple(float(c.saved_bytes) for c in costs)
    times = StageTimes.in_parts([c.forward_s + action_s for c in costs],
                                [c.input_s + action_s for c in costs],
                                [c.weight_s for c in costs],
                                apart_s=action_s)

    def text(cap_bytes: Sequence[float] | None) -> str:
        schedule = synthesise(times,
                              ranks=len(limits_bytes),
                              microbatches=pipeline.microbatches,
                              edges=found.edges,
                              p2p_s=Messages.of(found, link).time_s,
                              memory=StageMemory(saved_bytes=saved,
                                                 held_bytes=saved),
                              cap_bytes=cap_bytes,
                              effort=_EFFORT).schedule
        return f"{schedule}\n"

    try:
        chosen = text(_left_bytes(costs, limits_bytes))
    except InfeasiblePlan:
        chosen = text(None)
    return dataclasses.replace(pipeline, schedule=chosen)


def _left_bytes(costs: Sequence[StageCost],
                limits_bytes: Sequence[float]) -> list[float]:
    """What each rank can keep of micro-batches, wherever stages are."""
    fixed = [float(c.memory.kinds - c.memory.saved) for c in costs]
    return [
        max(
            0.0, limit - max(
                sum(f for f, r in zip(fixed, place, strict=True) if r == rank)
                for place in placements(len(costs), len(limits_bytes))))
        for rank, limit in enumerate(limits_bytes)
    ]
