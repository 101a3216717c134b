"""One rank's part of a pipeline's step: actions, messages, results.

The schedule gives the order of the rank's actions, and, with the stages'
edges, that of its sends and receives (`planner.schedule.transfers`), which
are started between actions and waited for where a value is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from planner.pipeline.stages import Stage
from planner.schedule.actions import Action, Schedule
from planner.schedule.transfers import Transfer, transfers
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.pipeline.transport import Pending, Transport
from scaletorch.runtime.random import mix

__all__ = ["Engine", "StageFeed", "Wire"]

_F, _B = "F", "B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A value between stages, as a rank of each holds it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool


StageFeed = Callable[[int, int], Mapping[str, torch.Tensor]]
"""A stage and a micro-batch to the stage's inputs by name."""

Key = tuple[str, int, str, int, int]
"""F or B, micro-batch, value, stage from which and stage to which."""


@dataclass(slots=True)
class _Step:
    """What one step holds on a rank."""

    values: dict[Key, torch.Tensor] = field(default_factory=dict)
    coming: dict[Key, Pending] = field(default_factory=dict)
    grads: dict[Key, torch.Tensor] = field(default_factory=dict)
    leaving: dict[Key, Pending] = field(default_factory=dict)
    outputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    mutations: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    def let_go(self, *, everything: bool = False) -> None:
        """Drop what has been sent; at last wait for everything."""
        for key, pending in list(self.leaving.items()):
            if everything:
                pending.wait()
            if everything or pending.is_done():
                del self.leaving[key]

    def answered(self, key: Key) -> None:
        """A gradient has come back: its value has arrived there."""
        pending = self.leaving.pop(key, None)
        if pending is not None:
            pending.wait()


class Engine:
    """Runs the actions of one rank.

    Parameters
    ----------
    schedule : Schedule
        Checked, with the stages' edges.
    rank : int
        Position on the pipeline's axis.
    stages : sequence of Stage
        All of them.
    executors : mapping of int to StageExecutor
        Of this rank's stages.
    wires : mapping of str to Wire
        Every value between stages.
    edges : sequence of (int, int)
    transport : Transport
    device : torch.device
    carried : frozenset of str
        Buffers whose new value the next micro-batch begins with.
    """

    def __init__(self, schedule: Schedule, rank: int, stages: Sequence[Stage],
                 executors: Mapping[int, StageExecutor], wires: Mapping[str,
                                                                        Wire],
                 edges: Sequence[tuple[int, int]], transport: Transport,
                 device: torch.device, carried: frozenset[str]) -> None:
        self.actions = schedule.ranks[rank]
        self.owner = schedule.stage_rank
        self.rank = rank
        self.stages = stages
        self.executors = executors
        self.wires = wires
        self.transport = transport
        self.device = device
        self.carried = carried
        self.posts: dict[int, list[Transfer]] = {}
        one_queue = device.type != "cpu"
        for transfer in transfers(schedule, edges, one_queue=one_queue)[rank]:
            self.posts.setdefault(transfer.position, []).append(transfer)
        self.complete = _complete(self.actions)

    def run(
        self, feed: StageFeed, seed: int, *, keep: bool,
        tangents: Mapping[str, torch.Tensor], returned: set[str]
    ) -> tuple[dict[str, list[torch.Tensor]], dict[str, list[torch.Tensor]]]:
        """Run a step's actions in order.

        Parameters
        ----------
        feed : callable
            (stage, micro-batch) to the stage's inputs by name.
        seed : int
            Of the step.
        keep : bool
            Whether there are backward actions.
        tangents : mapping of str to Tensor
            Gradient of each differentiated output of a micro-batch.
        returned : set of str
            Outputs of the program that are wanted.

        Returns
        -------
        outputs : dict of str to list of Tensor
            Of this rank's stages, a part for each micro-batch.
        mutations : dict of str to list of Tensor
            New buffer values, a part for each micro-batch; of those that are
            whole in each, the last.
        """
        step = _Step()
        for position, action in enumerate(self.actions):
            self._post(step, position)
            self._reduce(position, keep)
            step.let_go()
            if action.kind == "F":
                self._forward(step, action, feed, seed, keep, returned)
            elif action.kind == "W":
                self.executors[action.stage].weights_part(action.microbatch)
            else:
                self._backward(step, action, tangents)
        self._post(step, len(self.actions))
        self._reduce(len(self.actions), keep)
        step.let_go(everything=True)
        return step.outputs, step.mutations

    def _post(self, step: _Step, position: int) -> None:
        """Start the messages that are due before an action."""
        for transfer in self.posts.get(position, ()):
            forward = transfer.kind == "F"
            made = transfer.source if forward else transfer.target
            reader = transfer.target if forward else transfer.source
            for wire in self._between(made, reader, gradients=not forward):
                if transfer.op == "send":
                    key = _key(transfer, wire)
                    held = (step.values if forward else step.grads).pop(key)
                    step.leaving[key] = self.transport.send(
                        held, transfer.peer)
                else:
                    step.coming[_key(transfer,
                                     wire)] = (self.transport.receive(
                                         wire.shape, wire.dtype, self.device,
                                         transfer.peer))

    def _reduce(self, position: int, keep: bool) -> None:
        """Start to reduce the gradients of a stage that is done, when its
        messages are on their way."""
        if keep and position in self.complete:
            self.executors[self.complete[position]].reduce()

    def _between(self, made: int, reader: int, *,
                 gradients: bool) -> list[Wire]:
        """The values from one stage to another, in the order they go."""
        taken = self.stages[reader].takes
        found = [self.wires[n] for n in sorted(taken) if taken[n] == made]
        return [w for w in found if w.has_gradient or not gradients]

    def _forward(self, step: _Step, action: Action, feed: StageFeed, seed: int,
                 keep: bool, returned: set[str]) -> None:
        number, part = action.stage, action.microbatch
        stage = self.stages[number]
        given = {
            **{
                n: t[-1]
                for n, t in step.mutations.items() if n in self.carried and n in stage.program.specs
            },
            **feed(number, part)
        }
        for name, made in stage.takes.items():
            key = (_F, part, name, made, number)
            given[name] = (step.values.pop(key) if self.owner[made]
                           == self.rank else step.coming.pop(key).wait())
        # Stages count their blocks from 0, and are not to draw alike.
        own = mix(mix(seed, part), number)
        outputs, mutations = self.executors[number].forward_part(part,
                                                                 given,
                                                                 own,
                                                                 keep=keep)
        written = self.executors[number].written
        for name, value in mutations.items():
            if written[name].is_replicated:
                step.mutations[name] = [value]
            else:
                step.mutations.setdefault(name, []).append(value)
        for name, readers in stage.gives.items():
            for reader in readers:
                step.values[_F, part, name, number, reader] = outputs[name]
        # A model may return one value at several places.
        for name in returned.intersection(stage.outputs.values()):
            step.outputs.setdefault(name, []).append(outputs[name])

    def _backward(self, step: _Step, action: Action,
                  tangents: Mapping[str, torch.Tensor]) -> None:
        number, part = action.stage, action.microbatch
        stage = self.stages[number]
        given = {
            n: tangents[n]
            for n in stage.outputs.values() if n in tangents
        }
        for name, readers in stage.gives.items():
            if self.wires[name].has_gradient:
                for reader in readers:
                    grad = self._arrived(step, part, name, reader, number)
                    given[name] = (given[name] +
                                   grad if name in given else grad)
        wires = [self.wires[n] for n in stage.takes]
        wanted = [w for w in wires if w.has_gradient]
        executor = self.executors[number]
        found = executor.backward_part(part, given, [w.name for w in wanted])
        if action.kind == "B":
            executor.weights_part(part)
        for wire in wanted:
            grad = found.get(wire.name)
            if grad is None:
                grad = torch.zeros(wire.shape,
                                   dtype=wire.dtype,
                                   device=self.device)
            key = (_B, part, wire.name, number, stage.takes[wire.name])
            step.grads[key] = grad

    def _arrived(self, step: _Step, part: int, name: str, reader: int,
                 number: int) -> torch.Tensor:
        key = (_B, part, name, reader, number)
        if self.owner[reader] == self.rank:
            return step.grads.pop(key)
        grad = step.coming.pop(key).wait()
        step.answered((_F, part, name, number, reader))
        return grad


def _complete(actions: Sequence[Action]) -> dict[int, int]:
    """Positions before which the last gradients of a stage were computed,
    with the stage."""
    last = {
        action.stage: position + 1
        for position, action in enumerate(actions) if action.kind != "F"
    }
    return {position: stage for stage, position in last.items()}


def _key(transfer: Transfer, wire: Wire) -> Key:
    return (transfer.kind, transfer.microbatch, wire.name, transfer.source,
            transfer.target)
