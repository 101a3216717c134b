"""What a pipeline's step takes: stages priced apart, the schedule simulated.

A stage is a program, priced and measured like any other; the schedule's
simulation puts them together. So time and memory of a pipeline come from
the same sums as those of every other plan.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.cluster.axis import AxisInfo
from planner.cost.memory_estimate import MemoryEstimate
from planner.cost.plan_price import Exposure, StepTime
from planner.cost.timeline import Streams
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.pipeline.build import Pipelined
from planner.pipeline.closing import closing_s
from planner.pipeline.messages import Edge, Messages
from planner.pipeline.stage_cost import StageCost
from planner.schedule.actions import Schedule
from planner.schedule.graph import ActionGraph, build_graph
from planner.schedule.once import delay_s, reductions, start_s
from planner.schedule.simulation import Simulation, simulate
from planner.schedule.times import StageMemory, StageTimes

__all__ = [
    "PipelinePrice", "delay_s", "pipeline_price", "reductions", "replicas"
]


@dataclass(frozen=True, kw_only=True)
class PipelinePrice:
    """One step of a pipeline.

    Parameters
    ----------
    stages : tuple of StageCost
    schedule : Schedule
    simulation : Simulation
    begin_s : tuple of float
        What each rank does before its first action.
    finish_s : tuple of float
        Of each stage, after its last action.
    around_s : float
        A call, what is computed of the whole batch, and a forward pass of all
        micro-batches where one is made before.
    memory : tuple of MemoryEstimate
        Of each rank.
    times : StageTimes
        Of each stage's actions.
    messages : Messages
        Between stages.
    late_s : float
        For which ranks wait for the last of them, once a step.
    closing_s : float
        For which the next step waits for what stages send each other last:
        the loss, and gradients of parameters that several hold.
    """

    stages: tuple[StageCost, ...]
    schedule: Schedule
    simulation: Simulation
    begin_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    around_s: float
    memory: tuple[MemoryEstimate, ...]
    times: StageTimes
    messages: Messages
    late_s: float = 0.0
    closing_s: float = 0.0

    @functools.cached_property
    def step_s(self) -> float:
        """The step: until the last rank has reduced its gradients and has
        what others send it."""
        return (self.around_s + self.late_s + self.delay_s + self.closing_s +
                max(end_s for _, _, end_s in self.reductions()))

    @property
    def once_s(self) -> float:
        """How much longer it is by what is done once.

        Ranks with later stages gather while they wait for their first
        micro-batch, and stages that are done are reduced while others run.
        """
        return self.step_s - self.simulation.makespan_s

    @property
    def delay_s(self) -> float:
        """How much later than in the simulation ranks run their actions,
        because one of them still brings parameters into use."""
        return delay_s(self.simulation, self.begin_s)

    @functools.cached_property
    def exposed_messages_s(self) -> float:
        """How much less the schedule would take if messages took no time."""
        quick = simulate(self.simulation.graph, self.times)
        return max(0.0, self.simulation.makespan_s - quick.makespan_s)

    def sent(self, axis: str) -> Exposure:
        """What the mean rank sends to other stages, over the pipeline's axis.

        Its size is the mean of all messages.
        """
        runs, size_bytes, time_s = self.messages.sent(
            self.schedule.stage_rank, self.schedule.microbatches)
        ranks = len(self.schedule.ranks)
        return Exposure(where="between stages",
                        value="values and gradients",
                        kind="send",
                        axis=axis,
                        direction="both",
                        size_bytes=size_bytes / max(1, runs),
                        time_s=time_s / ranks,
                        exposed_s=self.exposed_messages_s,
                        count=runs / ranks)

    @property
    def overlap(self) -> StepTime:
        """The step as that of one rank, the mean of all."""
        ranks = len(self.schedule.ranks)
        stages = [s.found for s in self.stages]
        return StepTime(
            time_s=self.step_s,
            straggling_s=self.late_s + sum(s.straggling_s
                                           for s in stages) / ranks,
            interference_s=sum(s.interference_s for s in stages) / ranks,
            host_s=self._host_s / ranks,
            around_s=self.around_s + self.closing_s,
            exposures=_mean_rank((e for s in stages for e in s.exposures),
                                 ranks))

    @property
    def _host_s(self) -> float:
        """Waiting for the host, of all ranks together."""
        return self.schedule.microbatches * sum(
            s.found.forward_host_s + s.found.backward_host_s
            for s in self.stages)

    def start_s(self, rank: int) -> float:
        """When a rank's first action starts in the simulation."""
        return start_s(self.simulation, rank)

    def reductions(self) -> list[tuple[int, float, float]]:
        """Each stage with when its gradients are reduced, from and to.

        A rank's stages follow each other, each after its last action.
        """
        return reductions(self.simulation, self.finish_s)

    @property
    def busy_s(self) -> float:
        """What the mean rank does, with what it does once."""
        ranks = max(1, len(self.begin_s))
        return (self.simulation.makespan_s - self.bubble_s +
                (sum(self.begin_s) + sum(self.finish_s)) / ranks)

    @property
    def bubble_s(self) -> float:
        """The mean time for which a rank waits."""
        idle = self.simulation.idle_s
        return sum(idle) / max(1, len(idle))


def _mean_rank(exposures: Iterable[Exposure],
               ranks: int) -> tuple[Exposure, ...]:
    """Of all stages' collectives one rank's share, alike ones together."""
    alike: dict[Exposure, list[Exposure]] = {}
    for each in exposures:
        key = dataclasses.replace(each, time_s=0.0, exposed_s=0.0, count=0)
        alike.setdefault(key, []).append(each)
    return tuple(
        dataclasses.replace(key,
                            time_s=sum(e.time_s for e in own) / ranks,
                            exposed_s=sum(e.exposed_s for e in own) / ranks,
                            count=sum(e.count for e in own) / ranks)
        for key, own in alike.items())


def pipeline_price(found: Pipelined,
                   costs: Sequence[StageCost],
                   schedule: Schedule | ActionGraph,
                   link: AxisInfo,
                   *,
                   call_s: float = 0.0,
                   host_s: float = 0.0,
                   streams: Streams | None = None) -> PipelinePrice:
    """Simulate a schedule of priced stages.

    Parameters
    ----------
    found : Pipelined
    costs : sequence of StageCost
    schedule : Schedule or ActionGraph
        Checked.
    link : AxisInfo
        Of the pipeline's axis.
    call_s : float
        Of a call of the module before its first micro-batch.
    host_s : float
        For which a message keeps each of its two ranks from computing.
    streams : Streams, optional
        Of the ranks' devices. Of the messages that a rank waits for, most
        leave it idle anyway, so that ranks which are apart cost little; but
        they wait for each other as for a collective once a step at least.
        Where they share processors and nothing but stages divides the work,
        all of that waiting is simulated.
    """
    streams = streams or Streams()
    # Those that wait leave nothing to ranks of other hosts.
    alone_speedup = 1.0 if link.apart else streams.alone_speedup
    graph = (schedule if isinstance(schedule, ActionGraph) else build_graph(
        schedule, found.edges))
    schedule = graph.schedule
    forward, backward = _ends(found, schedule.stage_rank)
    times = StageTimes.in_parts([
        c.forward_s + host_s * n + streams.action_s
        for c, n in zip(costs, forward)
    ], [
        c.input_s + host_s * n + streams.action_s
        for c, n in zip(costs, backward)
    ], [c.weight_s for c in costs],
                                apart_s=streams.action_s,
                                alone_speedup=alone_speedup,
                                replicas=replicas(found.layout.mesh),
                                reduce_s=[c.finish_s for c in costs])
    saved = tuple(float(c.saved_bytes) for c in costs)
    messages = Messages.of(found, link)
    simulation = simulate(graph,
                          times,
                          p2p_s=messages.time_s,
                          occupancy_s=messages.occupancy_s,
                          memory=StageMemory(saved_bytes=saved,
                                             held_bytes=saved))
    ranks = len(schedule.ranks)
    owner = schedule.stage_rank
    begin = [0.0] * ranks
    for number, cost in enumerate(costs):
        begin[owner[number]] += cost.begin_s
    finish_s = tuple(c.finish_s for c in costs)
    return PipelinePrice(stages=tuple(costs),
                         schedule=schedule,
                         simulation=simulation,
                         begin_s=tuple(begin),
                         finish_s=finish_s,
                         around_s=call_s +
                         _rehearsal_s(found, times, schedule, messages.time_s),
                         times=times,
                         messages=messages,
                         late_s=(0.0 if alone_speedup > 1 and _is_alone(found)
                                 else _late_s(simulation, streams)),
                         closing_s=closing_s(found, simulation, begin,
                                             finish_s, link),
                         memory=tuple(
                             _rank_memory(costs, owner, rank, simulation)
                             for rank in range(ranks)))


def replicas(mesh: MeshSpec) -> int:
    """Pipelines that do the same and meet but once a step."""
    return mesh.size("dp") if "dp" in mesh.names else 1


def _is_alone(found: Pipelined) -> bool:
    """Whether each stage is on one rank, which has no collectives."""
    mesh = found.layout.mesh
    return mesh.world_size == mesh.size(MICROBATCH)


def _late_s(simulation: Simulation, streams: Streams) -> float:
    """For how long the mean rank waits for the last, after its work."""
    ranks = len(simulation.idle_s)
    if ranks < 2:
        return 0.0
    idle_s = sum(simulation.idle_s) / ranks
    return streams.late_s(simulation.makespan_s - idle_s)


def _ends(found: Pipelined,
          owner: Sequence[int]) -> tuple[list[int], list[int]]:
    """How many a micro-batch's forward and backward of each stage send to
    other ranks or take from them."""
    forward, backward = [0] * len(found.stages), [0] * len(found.stages)
    for reader, stage in enumerate(found.stages):
        for name, made in stage.takes.items():
            if owner[made] != owner[reader]:
                for end in (made, reader):
                    forward[end] += 1
                    backward[end] += stage.program.specs[name].requires_grad
    return forward, backward


def _rehearsal_s(found: Pipelined, times: StageTimes, schedule: Schedule,
                 message_s: Mapping[Edge, float]) -> float:
    """A forward pass of all micro-batches, where one is made before."""
    if found.rehearsal is None:
        return 0.0
    forward = Schedule(
        tuple(
            tuple(a for a in row if a.kind == "F") for row in schedule.ranks))
    return simulate(forward, times, edges=found.edges,
                    p2p_s=message_s).makespan_s


def _rank_memory(costs: Sequence[StageCost], owner: Sequence[int], rank: int,
                 simulation: Simulation) -> MemoryEstimate:
    own = [c.memory for c, o in zip(costs, owner, strict=True) if o == rank]
    return MemoryEstimate(parameters=sum(m.parameters for m in own),
                          gradients=sum(m.gradients for m in own),
                          optimizer=sum(m.optimizer for m in own),
                          saved=int(simulation.peak_bytes[rank]),
                          gathered=sum(m.gathered for m in own),
                          transient=max((m.transient for m in own), default=0),
                          outputs=sum(m.outputs for m in own),
                          trained=sum(m.trained for m in own),
                          num_trained=sum(m.num_trained for m in own))
