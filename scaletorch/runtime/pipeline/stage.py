"""One stage of a pipeline on one rank: runs micro-batches, keeps sums."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from passes.collectives import AxisRef
from passes.saved_memory import SavedMemory, saved_memory
from passes.split_backward import SplitBlock
from passes.split_weights import split_weights
from passes.steps import RankProgram
from planner.ir.layout import Placement
from scaletorch.runtime.bind import BoundKernel
from scaletorch.runtime.executor import BUCKET_BYTES, Executor, Tape
from scaletorch.runtime.parameters import Feed, plan_units
from scaletorch.runtime.pipeline.accumulate import Accumulator

__all__ = ["StageExecutor", "stage_kernels"]


@dataclass(slots=True)
class _Deferred:
    """Gradients of weights that are computed later."""

    seed: int
    work: list[tuple[int, list[Any]]] = field(default_factory=list)


class StageExecutor(Executor):
    """Runs one stage for one micro-batch at a time.

    Parameters are brought into use once for all micro-batches, but those
    that the plan gathers again; gradients of parameters are summed over
    the micro-batches and reduced from :meth:`reduce` to :meth:`finish`.

    Parameters
    ----------
    program : RankProgram
    axes : sequence of AxisRef
    mesh_names : sequence of str
    groups : sequence of ProcessGroup or None
        None for the micro-batches.
    compile : bool
    bucket_bytes : int
    halves : bool
        Whether the gradients of inputs and of weights are asked for apart.
    """

    def __init__(self,
                 program: RankProgram,
                 axes: Sequence[AxisRef],
                 mesh_names: Sequence[str],
                 groups: Sequence[Any],
                 *,
                 compile: bool = False,
                 bucket_bytes: int = BUCKET_BYTES,
                 halves: bool = False) -> None:
        super().__init__(program,
                         axes,
                         mesh_names,
                         groups,
                         compile=compile,
                         bucket_bytes=bucket_bytes)
        self.splits = stage_kernels(program, halves=halves)
        if halves:
            self.train = {
                name:
                BoundKernel(split,
                            self.groups,
                            compile=compile,
                            counts=self.counts)
                for name, split in self.splits.items()
            }
        moving = [(number, {
            n: m
            for n, m in step.moves.items() if m.moves_forward
        }) for number, step in enumerate(program.steps)]
        self.once = plan_units([(number, {
            n: m
            for n, m in moves.items() if not m.regather
        }) for number, moves in moving], bucket_bytes)
        self.units = plan_units([(number, {
            n: m
            for n, m in moves.items() if m.regather
        }) for number, moves in moving], bucket_bytes)
        self.moving = self.regathered
        self._state: dict[str, torch.Tensor] = {}
        self._tapes: dict[int, Tape] = {}
        self._later: dict[int, _Deferred] = {}
        self._sums = Accumulator(self.groups, bucket_bytes)

    def saved_memory(self, received: Collection[str]) -> SavedMemory:
        """What a micro-batch keeps, where these come from other stages."""
        return saved_memory(self.program, self.splits, received)

    @functools.cached_property
    def written(self) -> dict[str, Placement]:
        """Over the micro-batches, how new values of buffers are held."""
        return {
            b: self.program.layouts[v][-1]
            for b, v in self.program.mutations.items()
        }

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the parameters, buffers and constants of a step."""
        self.counts.begin()
        self._state = {n: state[n] for n in self.program.takes if n in state}
        feed = Feed(self.once, self._state, self.groups)
        for number in range(len(self.steps)):
            self._state.update(feed.arrive(number))

    def forward_part(
            self, microbatch: int, given: Mapping[str, torch.Tensor],
            seed: int, *, keep: bool
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Run one micro-batch.

        Parameters
        ----------
        microbatch : int
        given : mapping of str to Tensor
            Its part of the inputs, and what earlier stages made.
        seed : int
            Of this micro-batch.
        keep : bool
            Whether a backward will follow.

        Returns
        -------
        outputs, mutations : dict of str to Tensor
        """
        tape = Tape(seed=seed) if keep else None
        outputs, mutations = self.forward({
            **self._state,
            **given
        },
                                          seed,
                                          tape=tape)
        if tape is not None:
            self._tapes[microbatch] = tape
        made = {
            n: t
            for n, t in zip(self.program.outputs, outputs, strict=True)
            if n is not None
        }
        return made, mutations

    def backward_part(self, microbatch: int, tangents: Mapping[str,
                                                               torch.Tensor],
                      wanted: Sequence[str]) -> dict[str, torch.Tensor]:
        """Gradients of values of earlier stages for one micro-batch.

        Those of weights are added up, or, with `halves`, left to
        :meth:`weights_part`.
        """
        tape = self._tapes.pop(microbatch)
        later = _Deferred(seed=tape.seed)
        found = self.run_backward(
            tape,
            [tangents.get(n) if n else None
             for n in self.program.outputs], wanted, self._sums, later.work)
        if later.work:
            self._later[microbatch] = later
        return found

    def weights_part(self, microbatch: int) -> None:
        """Gradients of weights that :meth:`backward_part` left."""
        later = self._later.pop(microbatch, None)
        if later is None:
            return
        for number, reads in later.work:
            step = self.steps[number]
            kernel = self.train[step.kernel]
            out = kernel.weights(later.seed, number, reads)
            for name, route, grad in zip(step.operands,
                                         step.routes,
                                         out,
                                         strict=True):
                if grad is not None:
                    assert route is not None, name
                    self._sums.add(route, grad)

    def reduce(self) -> None:
        """Start to reduce the gradients of a step: they are all there."""
        self._sums.start()

    def finish(self) -> dict[str, torch.Tensor]:
        """Reduce the gradients of a step; by parameter, as they rest."""
        self.release()
        return self._sums.finish()

    def release(self) -> None:
        """Let go of what a step holds."""
        self._state = {}
        self._tapes.clear()
        self._later.clear()


def stage_kernels(program: RankProgram, *,
                  halves: bool) -> dict[str, SplitBlock]:
    """The kernels that a stage trains with.

    Parameters
    ----------
    program : RankProgram
    halves : bool
        Whether the gradients of weights are computed apart.
    """
    if not halves:
        return {n: k.train for n, k in program.kernels.items()}
    weights = _weights(program)
    return {
        n: split_weights(k.train, weights[n])
        for n, k in program.kernels.items()
    }


def _weights(program: RankProgram) -> dict[str, list[int]]:
    """For each kernel the operands that are parameters in every step."""
    found: dict[str, set[int]] = {}
    for step in program.steps:
        own = {i for i, n in enumerate(step.operands) if n in step.moves}
        found[step.kernel] = found.get(step.kernel, own) & own
    return {n: sorted(w) for n, w in found.items()}
