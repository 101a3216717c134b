"""Runs a rank's program: steps forward, then the same steps backward.

No autograd inside: the kernels are joint graphs already differentiated.
Values are freed after the last step that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from passes.lower import RankProgram, RankStep
from scaletorch.runtime.bind import BoundKernel
from scaletorch.runtime.random import mix

__all__ = ["Executor", "Tape"]


@dataclass(slots=True)
class Tape:
    """What the forward leaves for the backward."""

    seed: int
    saved: list[tuple[Any, ...]] = field(default_factory=list)
    used: bool = False


class Executor:
    """One rank's program bound to its process groups."""

    def __init__(self, program: RankProgram, groups: Mapping[str, str],
                 coordinates: Mapping[str, int], *,
                 compile: bool = False) -> None:
        self.program = program
        self.train = {n: BoundKernel(k.train, groups, coordinates,
                                     compile=compile)
                      for n, k in program.kernels.items()}
        self.infer = {n: BoundKernel(k.infer, groups, coordinates,
                                     compile=compile)
                      for n, k in program.kernels.items()}
        self.draws = any(k.draws for k in self.train.values())
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
        for number, step in enumerate(self.program.steps):
            kernel = kernels[step.kernel]
            given = [values[n] for n in step.operands]
            out = kernel.forward(mix(seed, number), *given)
            if tape is not None:
                tape.saved.append((*(given[i] for i in
                                     kernel.saved_operands),
                                   *out[kernel.results:]))
            values.update(zip(step.results, out))
            for name in self._dies[number]:
                values.pop(name, None)
        outputs = [values[n] if n else None for n in self.program.outputs]
        mutations = {b: values[v]
                     for b, v in self.program.mutations.items()}
        return outputs, mutations

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
        for number in reversed(range(len(self.program.steps))):
            saved = tape.saved.pop()
            self._step_back(self.program.steps[number], number, saved, tape,
                            grads)
        return {n: grads[n] for n in wanted if n in grads}

    def _step_back(self, step: RankStep, number: int,
                   saved: tuple[Any, ...], tape: Tape,
                   grads: dict[str, torch.Tensor]) -> None:
        kernel = self.train[step.kernel]
        given = [grads.pop(step.results[i], None) for i in kernel.tangents]
        if kernel.backward is None or all(g is None for g in given):
            return
        tangents = [g.contiguous() if g is not None else torch.zeros(
            m.shape, dtype=m.dtype, device=saved[0].device if saved else None)
            for g, m in zip(given, _tangent_metas(kernel), strict=True)]
        found = kernel.backward(mix(tape.seed, number), *saved, *tangents)
        for name, grad in zip(step.operands, found, strict=True):
            if grad is not None:
                _add(grads, name, grad)


def _tangent_metas(kernel: BoundKernel) -> list[torch.Tensor]:
    assert kernel.split.backward is not None
    places = [n for n in kernel.split.backward.nodes
              if n.op == "placeholder" and "tangent" in n.meta]
    return [n.meta["val"] for n in places]


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
