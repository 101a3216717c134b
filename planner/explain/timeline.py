"""One predicted step as spans in time: what which rank does when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.candidate import Candidate
from planner.cost.plan_price import BlockCompute, CollectivePrice
from planner.explain.causes import copies_s
from planner.ir.program import Program
from planner.pipeline.price import PipelinePrice

__all__ = ["COMMUNICATION", "COMPUTE", "Span", "Timeline", "step_timeline"]

COMPUTE, COMMUNICATION = "compute", "communication"

_KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient"
}
_BETWEEN = "between blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One piece of work of a rank.

    Parameters
    ----------
    rank : int
        Position along the pipeline's axis; 0 where there is none.
    stream : str
        ``compute`` or ``communication``.
    kind : str
        ``forward``, ``backward``, ``input gradient``, ``weight gradient``,
        ``forward again``, ``local copies``, ``communication AXIS``,
        ``once a step``, ``message``, ``waiting`` or ``optimizer``.
    name : str
    label : str
        In a few letters, for a small space.
    start_s, end_s : float
    """

    rank: int
    stream: str
    kind: str
    name: str
    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A step.

    Parameters
    ----------
    ranks : tuple of str
        What each rank stands for.
    spans : tuple of Span
        By rank, then in order of time.
    end_s : float
        When the step ends.
    """

    ranks: tuple[str, ...]
    spans: tuple[Span, ...]
    end_s: float


def step_timeline(program: Program, chosen: Candidate) -> Timeline:
    """The step of a plan as it was priced.

    A pipeline's ranks follow the simulation of its schedule; what is done
    once a step comes last, and the collectives of a stage are part of its
    forward and backward. Without a pipeline all ranks do the same, block by
    block, and nothing overlaps; what a rank waits for beside messages is not
    known by place, and follows. The optimizer ends the step.

    Parameters
    ----------
    program : Program
        As captured.
    chosen : Candidate
        Of this program.
    """
    if chosen.step is not None and chosen.pipeline is not None:
        spans = tuple(_pipeline_spans(chosen.step))
        names = tuple(f"{chosen.pipeline.axis} {rank}"
                      for rank in range(len(chosen.step.memory)))
    else:
        spans = tuple(_Blocks(program, chosen).spans())
        names = ("every rank", )
    start_s = (chosen.price.time_s
               if chosen.step is None else chosen.step.step_s)
    last = list(_last(chosen, start_s))
    spans += tuple(
        replace(s, rank=rank) for rank in range(len(names)) for s in last)
    ordered = sorted(spans, key=lambda s: (s.rank, s.start_s, s.stream))
    return Timeline(ranks=names,
                    spans=tuple(ordered),
                    end_s=last[-1].end_s if last else start_s)


def _last(chosen: Candidate, now_s: float) -> Iterator[Span]:
    """What follows the blocks, of one rank."""
    step, found = chosen.price.step, [("optimizer", "optimizer",
                                       chosen.optimizer_s)]
    if chosen.step is None and step is not None:
        packing_s = copies_s(chosen) - chosen.price.local_s
        found = [("local copies", "packing of messages", packing_s),
                 ("waiting", "slowed by messages", step.interference_s),
                 ("waiting", "waiting for the host", step.host_s),
                 ("waiting", "waiting for the last rank", step.straggling_s),
                 ("waiting", "around the blocks", step.around_s), *found]
    for kind, name, seconds in found:
        if seconds > 0:
            yield Span(rank=0,
                       stream=COMPUTE,
                       kind=kind,
                       name=name,
                       label="",
                       start_s=now_s,
                       end_s=now_s + seconds)
            now_s += seconds


def _pipeline_spans(step: PipelinePrice) -> Iterator[Span]:
    simulation = step.simulation
    after_s = step.around_s + step.delay_s
    for rank in range(len(step.memory)):
        for action, start_s, end_s in simulation.row(rank):
            yield Span(rank=rank,
                       stream=COMPUTE,
                       kind=_KINDS[action.kind],
                       name=f"stage {action.stage} {_KINDS[action.kind]}, "
                       f"micro-batch {action.microbatch}",
                       label=str(action.microbatch),
                       start_s=after_s + start_s,
                       end_s=after_s + end_s)
    yield from _messages(step)
    for rank, begin_s in enumerate(step.begin_s):
        starts_s = after_s + step.start_s(rank)
        if begin_s:
            yield _once(rank, "parameters, once a step", starts_s - begin_s,
                        starts_s)
    for stage, start_s, end_s in step.reductions():
        if end_s > start_s:
            yield _once(step.schedule.stage_rank[stage],
                        f"gradients of stage {stage}, once a step",
                        after_s + start_s, after_s + end_s)


def _once(rank: int, name: str, start_s: float, end_s: float) -> Span:
    return Span(rank=rank,
                stream=COMMUNICATION,
                kind="once a step",
                name=name,
                label="once",
                start_s=start_s,
                end_s=end_s)


def _messages(step: PipelinePrice) -> Iterator[Span]:
    """From the end of the action that makes a value, on its rank."""
    graph, ends_s = step.simulation.graph, step.simulation.ends_s
    after_s = step.around_s + step.delay_s
    for sender, reader, edge in graph.messages():
        seconds = step.messages.time_s.get(graph.edges[edge], 0.0)
        action = graph.actions[sender]
        if seconds:
            what = "values" if action.kind == "F" else "gradients"
            yield Span(
                rank=graph.rank[sender],
                stream=COMMUNICATION,
                kind="message",
                name=f"{what} of micro-batch {action.microbatch} from "
                f"stage {action.stage} to {graph.actions[reader].stage}",
                label="",
                start_s=after_s + ends_s[sender],
                end_s=after_s + ends_s[sender] + seconds)


class _Blocks:
    """The blocks forward, then backward, one after the other."""

    def __init__(self, program: Program, chosen: Candidate) -> None:
        self.program, self.price = program, chosen.price
        self.compute = {b.where: b for b in chosen.price.blocks}
        self.collectives = _by_place(chosen.price.collectives)
        made = {
            name: number
            for number, block in enumerate(program.blocks)
            for name in block.results
        }
        self.between: dict[tuple[int, str], list[CollectivePrice]] = {}
        for c in chosen.price.collectives:
            if c.where == _BETWEEN:
                place = made.get(c.value, -1), c.direction
                self.between.setdefault(place, []).append(c)
        self.now_s = 0.0

    def spans(self) -> Iterator[Span]:
        count = len(self.program.blocks)
        yield from self._moved(_BETWEEN, self.between.get((-1, "forward"), ()))
        for number in range(count):
            yield from self._forward(number)
        yield from self._compute("local copies", "local copies",
                                 self.price.local_s / 2)
        for number in reversed(range(count)):
            yield from self._backward(number)
        yield from self._moved(_BETWEEN, self.between.get((-1, "backward"),
                                                          ()))
        yield from self._compute("local copies", "local copies",
                                 self.price.local_s / 2)

    def _forward(self, number: int) -> Iterator[Span]:
        name, cls, work = self._block(number)
        yield from self._moved(name, self.collectives[cls, "forward"])
        yield from self._compute("forward", name, work.forward_s)
        yield from self._moved(_BETWEEN,
                               self.between.get((number, "forward"), ()))

    def _backward(self, number: int) -> Iterator[Span]:
        name, cls, work = self._block(number)
        yield from self._moved(_BETWEEN,
                               self.between.get((number, "backward"), ()))
        for direction in ("regather", "recompute"):
            yield from self._moved(name, self.collectives[cls, direction])
        yield from self._compute("forward again", name, work.recompute_s)
        yield from self._compute("backward", name, work.backward_s)
        yield from self._moved(name, self.collectives[cls, "backward"])

    def _block(self, number: int) -> tuple[str, str, BlockCompute]:
        block = self.program.blocks[number]
        return block.name, block.block_class, self.compute[block.block_class]

    def _moved(self, block: str,
               collectives: Sequence[CollectivePrice]) -> Iterator[Span]:
        for c in collectives:
            yield from self._span(
                COMMUNICATION, f"communication {c.axis}",
                f"{c.kind} of {c.value} over {c.axis}, {block}, "
                f"{c.direction}", c.axis, c.time_s / c.count)

    def _compute(self, kind: str, block: str,
                 seconds: float) -> Iterator[Span]:
        name = kind if block == kind else f"{kind} of {block}"
        yield from self._span(COMPUTE, kind, name,
                              block.rpartition(".")[2], seconds)

    def _span(self, stream: str, kind: str, name: str, label: str,
              seconds: float) -> Iterator[Span]:
        if seconds > 0:
            start_s, self.now_s = self.now_s, self.now_s + seconds
            yield Span(rank=0,
                       stream=stream,
                       kind=kind,
                       name=name,
                       label=label,
                       start_s=start_s,
                       end_s=self.now_s)


def _by_place(
    collectives: Sequence[CollectivePrice]
) -> defaultdict[tuple[str, str], list[CollectivePrice]]:
    found: defaultdict[tuple[str, str],
                       list[CollectivePrice]] = defaultdict(list)
    for c in collectives:
        if c.where != _BETWEEN:
            found[c.where, c.direction].append(c)
    return found
