"""Runs a rank's program: steps forward, then the same steps backward.

No autograd inside: the kernels are joint graphs already differentiated.
Values are freed after the last step that reads them, what the forward
saved as soon as the backward has read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from passes.collectives import AxisRef
from passes.lower import RankProgram
from planner.cost.state_moves import BUCKET_BYTES
from scaletorch.runtime.bind import BoundKernel
from scaletorch.runtime.bound_step import BoundStep, bind_steps
from scaletorch.runtime.expert_counts import ExpertCounts
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.parameters import Feed, Unit, plan_units
from scaletorch.runtime.random import mix
from scaletorch.runtime.reduction import Reducer, Route

__all__ = ["BUCKET_BYTES", "Executor", "GradientSink", "Tape"]


@dataclass(slots=True)
class Tape:
    """What the forward leaves for the backward."""

    seed: int
    saved: list[tuple[list[Any], Sequence[Any]]] = field(default_factory=list)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    used: bool = False

    def copied(self) -> Tape:
        """Another one for a backward pass that is not the last."""
        return Tape(seed=self.seed,
                    saved=list(self.saved),
                    state=dict(self.state))


class GradientSink(Protocol):
    """What takes the gradients of parameters that move."""

    def add(self, route: Route, grad: torch.Tensor) -> None:
        """Take a local gradient."""


class Executor:
    """One rank's program bound to its process groups.

    Parameters
    ----------
    program : RankProgram
    axes : sequence of AxisRef
        With the names of real process groups.
    mesh_names : sequence of str
        The axes' names in the program.
    groups : sequence of ProcessGroup
    compile : bool
        Whether kernels go through ``torch.compile``.
    bucket_bytes : int
        Size up to which small parameters are gathered together, and
        gradients reduced.
    """

    def __init__(self,
                 program: RankProgram,
                 axes: Sequence[AxisRef],
                 mesh_names: Sequence[str],
                 groups: Sequence[Any],
                 *,
                 compile: bool = False,
                 bucket_bytes: int = BUCKET_BYTES) -> None:
        self.program = program
        self.groups = Groups.of(mesh_names, axes, groups)
        self.bucket_bytes = bucket_bytes
        self.counts = ExpertCounts()
        self.train, self.infer = ({
            name:
            BoundKernel(split,
                        self.groups,
                        compile=compile,
                        counts=self.counts)
            for name, split in kernels
        } for kernels in (((n, k.train) for n, k in program.kernels.items()),
                          ((n, k.infer) for n, k in program.kernels.items())))
        self.draws = any(k.draws for k in self.train.values())
        self.steps = bind_steps(program)
        moving = [(number, {
            n: m
            for n, m in step.moves.items() if m.moves_forward
        }) for number, step in enumerate(program.steps)]
        self.units = plan_units(moving, bucket_bytes)
        self.again = plan_units([(number, {
            n: m
            for n, m in moves.items() if m.regather
        }) for number, moves in reversed(moving)], bucket_bytes)
        self.moving = _sources(self.units)
        self.regathered = _sources(self.again)
        self.first_sent = -1 if self.units else next(
            (number for number, step in enumerate(self.steps)
             if self.train[step.kernel].sends or self.infer[step.kernel].sends
             ), len(self.steps))

    def forward(
        self,
        values: dict[str, torch.Tensor],
        seed: int,
        *,
        tape: Tape | None,
        agree: Callable[[], object] | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Run all steps.

        Parameters
        ----------
        values : dict of str to Tensor
            Local parameters, buffers, constants and inputs by global name;
            taken over and emptied.
        seed : int
            What this call's random streams derive from.
        tape : Tape or None
            Filled for :meth:`backward`; None: nothing is kept.
        agree : callable, optional
            Called before the first step that sends something, or at the
            end.

        Returns
        -------
        outputs : list
            Per output leaf a tensor or None.
        mutations : dict
            New buffer values.
        """
        if tape is not None:
            tape.state = {n: values[n] for n in self.regathered}
        if agree is not None and self.first_sent < 0:
            agree()
        feed = Feed(self.units, {n: values[n]
                                 for n in self.moving}, self.groups)
        for number, step in enumerate(self.steps):
            if agree is not None and number == self.first_sent:
                agree()
            values.update(feed.arrive(number))
            self._step(number, step, values, seed, tape)
            for name in (*step.dies, *feed.dead(number, step.again)):
                values.pop(name, None)
        if agree is not None and self.first_sent == len(self.steps):
            agree()
        outputs = [values[n] if n else None for n in self.program.outputs]
        mutations = {b: values[v] for b, v in self.program.mutations.items()}
        return outputs, mutations

    def _step(self, number: int, step: BoundStep, values: dict[str,
                                                               torch.Tensor],
              seed: int, tape: Tape | None) -> None:
        kernels = self.train if tape is not None else self.infer
        kernel = kernels[step.kernel]
        given = [values[n] for n in step.operands]
        self.counts.step = number
        try:
            out = kernel.forward(mix(seed, number), *given)
        except Exception as error:
            error.add_note(self._place(number, "forward"))
            raise
        if tape is not None:
            tape.saved.append(([
                None if step.operands[i] in step.again else given[i]
                for i in kernel.saved_operands
            ], out[kernel.results:]))
        values.update(zip(step.results, out))

    def backward(self, tape: Tape, tangents: Sequence[torch.Tensor | None],
                 wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        """Gradients of the wanted operands (by global name), local parts.

        Parameters
        ----------
        tape : Tape
            Of the forward call; emptied.
        tangents : sequence of Tensor or None
            Per output leaf.
        wanted : sequence of str
            Parameters and inputs.
        """
        reducer = Reducer(self.groups, self.bucket_bytes)
        grads = self.run_backward(tape, tangents, wanted, reducer, [])
        for name, grad in reducer.finish():
            _add(grads, name, grad)
        return {n: grads[n] for n in wanted if n in grads}

    def run_backward(
            self, tape: Tape, tangents: Sequence[torch.Tensor | None],
            wanted: Sequence[str], reducer: GradientSink,
            later: list[tuple[int, list[Any]]]) -> dict[str, torch.Tensor]:
        """Run all steps backward.

        Parameters
        ----------
        tape, tangents, wanted
            See :meth:`backward`.
        reducer : GradientSink
            Takes the gradients of parameters that move.
        later : list of (int, list)
            Filled, last step first, with what is read by the gradients of
            weights that the kernels leave out.

        Returns
        -------
        dict of str to Tensor
            The wanted gradients that need no reduction.
        """
        tape.used = True
        grads: dict[str, torch.Tensor] = {}
        for name, tangent in zip(self.program.outputs, tangents, strict=True):
            if name is not None and tangent is not None:
                _add(grads, name, tangent)
        feed = Feed(self.again, tape.state, self.groups)
        whole: dict[str, torch.Tensor] = {}
        for number in range(len(self.steps) - 1, -1, -1):
            whole.update(feed.arrive(number))
            self._step_back(number, tape, whole, grads, reducer, later)
            for name in feed.dead(number, self.steps[number].again):
                whole.pop(name, None)
        tape.state = {}
        return {n: grads[n] for n in wanted if n in grads}

    def _step_back(self, number: int, tape: Tape, whole: Mapping[str,
                                                                 torch.Tensor],
                   grads: dict[str, torch.Tensor], reducer: GradientSink,
                   later: list[tuple[int, list[Any]]]) -> None:
        """One step's backward."""
        step = self.steps[number]
        kernel = self.train[step.kernel]
        operands, others = tape.saved.pop()
        given = [grads.pop(step.results[i], None) for i in kernel.tangents]
        if kernel.backward is None or all(g is None for g in given):
            return
        saved = [
            whole[step.operands[i]] if x is None else x
            for i, x in zip(kernel.saved_operands, operands, strict=True)
        ]
        read = [*saved, *others, *kernel.filled(given)]
        try:
            out = kernel.backward(mix(tape.seed, number), *read)
        except Exception as error:
            error.add_note(self._place(number, "backward"))
            raise
        if kernel.weight_reads is not None:
            out, passed = out[:len(step.operands)], out[len(step.operands):]
            available = (*read, *passed)
            later.append((number, [available[i] for i in kernel.weight_reads]))
        for name, route, grad in zip(step.operands,
                                     step.routes,
                                     out,
                                     strict=True):
            if grad is None:
                continue
            if route is not None:
                reducer.add(route, grad)
            else:
                _add(grads, name, grad)

    def _place(self, number: int, way: str) -> str:
        """Where in the user's model a kernel failed, whose own lines are
        those of generated code."""
        return f"in the {way} pass of {self.program.steps[number].name}"


def _sources(units: Sequence[Unit]) -> frozenset[str]:
    return frozenset(m.source for unit in units for bucket in unit.buckets
                     for m in bucket.moves.values())


def _add(grads: dict[str, torch.Tensor], name: str,
         grad: torch.Tensor) -> None:
    grads[name] = grad if name not in grads else grads[name] + grad
