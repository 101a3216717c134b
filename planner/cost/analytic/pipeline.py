"""What a pipeline's schedule takes and holds, by formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.cost.analytic.configurations import (DUALPIPEV, FLUSH, FULL,
                                                  GPIPE, ZBH1, ZBV,
                                                  Configurations)
from planner.schedule.estimate import estimate

__all__ = ["in_flight", "pipeline_time_s"]

Number = Any
_NAMES = {
    FLUSH: "interleaved1f1b",
    GPIPE: "loopedbfs",
    ZBH1: "zbh1",
    ZBV: "zbv",
    DUALPIPEV: "dualpipev"
}


def pipeline_time_s(plan: Configurations, stage_s: Number,
                    send_s: Number) -> Number:
    """Seconds from the first forward to the last backward of a step.

    Parameters
    ----------
    plan : Configurations
    stage_s : number or array
        One micro-batch on one rank, forward and backward.
    send_s : number or array
        A message from rank to rank.
    """
    if not np.any(plan.schedule):
        return _time_s(FLUSH, plan, stage_s, send_s)
    chosen = np.unique(plan.schedule).tolist()
    return np.select([np.equal(plan.schedule, s) for s in chosen],
                     [_time_s(s, plan, stage_s, send_s) for s in chosen])


def _time_s(schedule: int, plan: Configurations, stage_s: Number,
            send_s: Number) -> Number:
    """Of one schedule.

    A forward is a third of a stage's time, or a quarter where the backward
    makes it again, and gradients of weights are as much. 1F1B takes what the
    sum says.
    """
    whole_s = stage_s / plan.chunks
    share = np.where(np.equal(plan.recompute, FULL), 1 / 4, 1 / 3)
    part_s = whole_s if schedule == FLUSH else share * whole_s
    weight_s = 0.0 if schedule == FLUSH else part_s
    return estimate(_NAMES[schedule],
                    ranks=plan.pp,
                    microbatches=plan.num_microbatches,
                    chunks=plan.chunks,
                    forward_s=part_s,
                    input_s=whole_s - part_s - weight_s,
                    weight_s=weight_s,
                    p2p_s=send_s).time_s


def in_flight(plan: Configurations, last_stage: bool | Number) -> Number:
    """Micro-batches whose activations a stage holds at once, in stages.

    1F1B holds as many as there are stages behind it and itself;
    interleaved stages ``1 + (p - 1) / (p v)`` times that in the first
    stage (Korthikanti et al. 2022, arXiv 2205.05198), and in the last,
    where the warm-up is ``(v - 1) p`` chunks long, ``((v - 1) p + 1) / v``.
    GPipe holds all. ZB-H1 holds as many on every rank as 1F1B on the first,
    and so do ZBV and DualPipeV, but for half of one.
    """
    pp, chunks = plan.pp, plan.chunks
    first = pp * np.where(chunks > 1, 1 + (pp - 1) / (pp * chunks), 1.0)
    last = np.where(chunks > 1, ((chunks - 1) * pp + 1) / chunks, 1.0)
    schedule = plan.schedule
    held = np.select([
        np.equal(schedule, FLUSH),
        np.equal(schedule, GPIPE),
        np.equal(schedule, DUALPIPEV)
    ], [np.where(last_stage, last, first), plan.num_microbatches, pp + 0.5],
                     pp)
    return np.minimum(held, plan.num_microbatches)
