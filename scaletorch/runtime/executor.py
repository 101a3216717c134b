"""Runs a rank's program: steps forward, then the same steps backward.

No autograd inside: the kernels are joint graphs already differentiated.
Values are freed after the last step that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from passes.collectives import AxisRef
from passes.lower import Kernel, RankProgram
from passes.split_backward import SplitBlock
from scaletorch.runtime.bind import BoundKernel
from scaletorch.runtime.parameters import (Bucket, Gather, Reduction,
                                           make_buckets)
from scaletorch.runtime.random import mix

__all__ = ["Executor", "Tape"]


@dataclass(slots=True)
class Tape:
    """What the forward leaves for the backward."""

    seed: int
    saved: list[tuple[list[Any], Sequence[Any]]] = field(
        default_factory=list)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    used: bool = False


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
    """

    def __init__(self, program: RankProgram, axes: Sequence[AxisRef],
                 mesh_names: Sequence[str], groups: Sequence[Any], *,
                 compile: bool = False) -> None:
        self.program = program
        names = dict(zip(mesh_names, (a.name for a in axes), strict=True))
        places = dict(zip(mesh_names, (a.coordinate for a in axes),
                          strict=True))
        self.train, self.infer = (
            {n: BoundKernel(split(k), names, places, compile=compile)
             for n, k in program.kernels.items()}
            for split in (_train, _infer))
        self.draws = any(k.draws for k in self.train.values())
        self.buckets = [
            make_buckets(s.moves, dict(enumerate(axes)),
                         dict(enumerate(groups))) for s in program.steps]
        self._dies = _last_reads(program)

    def forward(self, values: dict[str, torch.Tensor], seed: int, *,
                tape: Tape | None) -> tuple[list[Any], dict[str, Any]]:
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

        Returns
        -------
        outputs : list
            Per output leaf a tensor or None.
        mutations : dict
            New buffer values.
        """
        kernels = self.train if tape is not None else self.infer
        steps = self.program.steps
        if tape is not None:
            tape.state = {m.source: values[m.source] for s in steps
                          for m in s.moves.values()}
        ahead = self._gather(0, values, lambda b: True)
        for number, step in enumerate(steps):
            gathered = ahead
            ahead = self._gather(number + 1, values, lambda b: True)
            for gather in gathered:
                values.update(gather.finish())
            kernel = kernels[step.kernel]
            given = [values[n] for n in step.operands]
            out = kernel.forward(mix(seed, number), *given)
            if tape is not None:
                again = self._again(number)
                tape.saved.append((
                    [None if step.operands[i] in again else given[i]
                     for i in kernel.saved_operands],
                    out[kernel.results:]))
            values.update(zip(step.results, out))
            for name in self._dies[number]:
                values.pop(name, None)
        outputs = [values[n] if n else None for n in self.program.outputs]
        mutations = {b: values[v]
                     for b, v in self.program.mutations.items()}
        return outputs, mutations

    def _gather(self, number: int, values: Mapping[str, torch.Tensor],
                which: Callable[[Bucket], bool]) -> list[Gather]:
        """Start bringing a step's parameters into use."""
        if not 0 <= number < len(self.buckets):
            return []
        return [Gather(b, [values[m.source] for m in b.moves])
                for b in self.buckets[number] if which(b)]

    def _again(self, number: int) -> set[str]:
        return {n for b in self.buckets[number]
                if b.regather and b.moves_forward for n in b.names}

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
        tape.used = True
        grads: dict[str, torch.Tensor] = {}
        for name, tangent in zip(self.program.outputs, tangents,
                                 strict=True):
            if name is not None and tangent is not None:
                _add(grads, name, tangent)
        last = len(self.program.steps) - 1
        reductions: list[Reduction] = []
        ahead = self._gather(last, tape.state, _again_forward)
        for number in range(last, -1, -1):
            gathered = ahead
            ahead = self._gather(number - 1, tape.state, _again_forward)
            again: dict[str, torch.Tensor] = {}
            for gather in gathered:
                again.update(gather.finish())
            found = self._step_back(number, tape, again, grads)
            for bucket in self.buckets[number]:
                reduction = Reduction.start(bucket, found)
                if reduction is not None:
                    reductions.append(reduction)
        for reduction in reductions:
            for name, grad in reduction.finish().items():
                _add(grads, name, grad)
        tape.state = {}
        return {n: grads[n] for n in wanted if n in grads}

    def _step_back(self, number: int, tape: Tape,
                   again: Mapping[str, torch.Tensor],
                   grads: dict[str, torch.Tensor]
                   ) -> dict[str, torch.Tensor]:
        """One step's backward; gives gradients of moved parameters."""
        step = self.program.steps[number]
        kernel = self.train[step.kernel]
        operands, others = tape.saved.pop()
        given = [grads.pop(step.results[i], None) for i in kernel.tangents]
        if kernel.backward is None or all(g is None for g in given):
            return {}
        tangents = [g.contiguous() if g is not None else torch.zeros(m.shape, dtype=m.dtype, device=m.device)
                    for g, m in zip(given, kernel.tangent_metas,
                                    strict=True)]
        saved = [again[step.operands[i]] if x is None else x
                 for i, x in zip(kernel.saved_operands, operands,
                                 strict=True)]
        out = kernel.backward(mix(tape.seed, number), *saved, *others,
                              *tangents)
        moved = {}
        for name, grad in zip(step.operands, out, strict=True):
            if grad is None:
                continue
            if name in step.moves:
                moved[name] = grad
            else:
                _add(grads, name, grad)
        return moved


def _train(kernel: Kernel) -> SplitBlock:
    return kernel.train


def _infer(kernel: Kernel) -> SplitBlock:
    return kernel.infer


def _again_forward(bucket: Bucket) -> bool:
    return bucket.regather and bucket.moves_forward


def _add(grads: dict[str, torch.Tensor], name: str,
         grad: torch.Tensor) -> None:
    grads[name] = grad if name not in grads else grads[name] + grad


def _last_reads(program: RankProgram) -> list[list[str]]:
    """Which values each step is the last to read."""
    keep = {n for n in program.outputs if n} | set(
        program.mutations.values())
    last: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in (*step.operands, *step.results):
            last[name] = number
    dies: list[list[str]] = [[] for _ in program.steps]
    for name, number in last.items():
        if name not in keep:
            dies[number].append(name)
    return dies
