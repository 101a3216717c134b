"""What stages of a pipeline send each other once a step, after their work.

The loss goes from the stage that makes it to all ranks, then gradients of
parameters that several ranks hold go to all holders. Who waits for them begins
the next step later; ranks of later stages have nothing to do at first anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.cluster.axis import AxisInfo
from planner.cost.collective import collective_time_s
from planner.pipeline.build import Pipelined
from planner.pipeline.holders import holders_of
from planner.pipeline.stage_cost import wire_bytes
from planner.schedule.once import reductions, start_s
from planner.schedule.simulation import Simulation

__all__ = ["closing_s"]

_LOSS_BYTES = 4.0


def closing_s(found: Pipelined, simulation: Simulation,
              begin_s: Sequence[float], finish_s: Sequence[float],
              link: AxisInfo) -> float:
    """For how long a step that follows another has to wait for it, after all
    ranks have reduced their gradients.

    Parameters
    ----------
    found : Pipelined
    simulation : Simulation
    begin_s : sequence of float
        What each rank does before its first action.
    finish_s : sequence of float
        Of each stage, after its last action.
    link : AxisInfo
        Of the pipeline's axis.
    """
    owner = simulation.graph.schedule.stage_rank
    ends_s = [0.0] * len(begin_s)
    for stage, _, end_s in reductions(simulation, finish_s):
        ends_s[owner[stage]] = max(ends_s[owner[stage]], end_s)
    arrive_s = _with_tied(found, owner, _with_loss(found, owner, ends_s, link),
                          link)
    waits_s = [
        arrived_s - max(0.0,
                        start_s(simulation, rank) - begin_s[rank])
        for rank, arrived_s in enumerate(arrive_s)
    ]
    return max(0.0, max(waits_s) - max(ends_s))


def _with_loss(found: Pipelined, owner: Sequence[int], ends_s: Sequence[float],
               link: AxisInfo) -> list[float]:
    """When each rank has the loss, which its maker sends when it is done."""
    loss = found.program.loss_name
    makers = [
        owner[number] for number, stage in enumerate(found.stages)
        if loss is not None and loss in stage.outputs.values()
    ]
    if not makers or len(ends_s) == 1:
        return list(ends_s)
    sent_s = (max(ends_s[rank] for rank in makers) +
              collective_time_s("broadcast", _LOSS_BYTES, link))
    return [
        end_s if rank in makers else max(end_s, sent_s)
        for rank, end_s in enumerate(ends_s)
    ]


def _with_tied(found: Pipelined, owner: Sequence[int], ends_s: Sequence[float],
               link: AxisInfo) -> list[float]:
    """When each rank has the gradients of the parameters that others hold,
    too: of one after the other, each is sent to all others at once."""
    after_s = list(ends_s)
    for name, holders in holders_of(found.stages, owner, len(ends_s)).items():
        stage = next(s for s in found.stages if name in s.params)
        if len(holders) == 1 or not stage.program.specs[name].requires_grad:
            continue
        moved_s = collective_time_s("send", float(wire_bytes(stage, name)),
                                    link)
        sent_s = {h: after_s[h] + moved_s for h in holders}
        for rank in holders:
            after_s[rank] = max(after_s[rank],
                                *(s for h, s in sent_s.items() if h != rank))
    return after_s
