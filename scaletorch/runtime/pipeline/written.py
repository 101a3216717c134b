"""Buffers that a step writes, on every rank of the pipeline that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from planner.ir.layout import Placement
from planner.pipeline.build import Pipelined
from scaletorch.runtime.pipeline.axes import StageAxes
from scaletorch.runtime.pipeline.results import joined
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.pipeline.transport import Transport

__all__ = ["Written", "readers_of"]


class Written:
    """Buffers that a step writes.

    Parameters
    ----------
    found : Pipelined
    owner : sequence of int
        The rank of each stage.
    executors : mapping of int to StageExecutor
        Of this rank's stages.
    place : StageAxes
    transport : Transport

    Attributes
    ----------
    readers : dict of str to set of int
        What is computed with, to the ranks that do so.
    """

    def __init__(self, found: Pipelined, owner: Sequence[int],
                 executors: Mapping[int, StageExecutor], place: StageAxes,
                 transport: Transport) -> None:
        self.rank = place.rank
        self.transport = transport
        self.readers = readers_of(found, owner, place.pipeline.size())
        self.makers = {
            name: owner[number]
            for number, stage in enumerate(found.stages)
            for name in stage.program.mutations
        }
        self.others = {
            name: sorted(self.readers.get(name, set()) - {maker})
            for name, maker in sorted(self.makers.items())
        }
        self.placements: dict[str, Placement] = {}
        for executor in executors.values():
            self.placements |= executor.written

    def values(self, parts: Mapping[str, Sequence[torch.Tensor]],
               local: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the buffers of this rank become.

        Parameters
        ----------
        parts : mapping of str to sequence of Tensor
            What micro-batches give, by buffer, of this rank's stages.
        local : mapping of str to Tensor
            The buffers.
        """
        found, sent = {}, []
        # In the same order on all, so that nobody waits for himself.
        for name, others in self.others.items():
            maker = self.makers[name]
            if maker == self.rank:
                value = joined(parts[name], self.placements[name])
                found[name] = value.to(local[name].dtype)
                sent += [
                    self.transport.send(found[name], other) for other in others
                ]
            elif self.rank in others:
                like = local[name]
                found[name] = self.transport.receive(like.shape, like.dtype,
                                                     like.device,
                                                     maker).wait()
        for pending in sent:
            pending.wait()
        return found


def readers_of(found: Pipelined, owner: Sequence[int],
               ranks: int) -> dict[str, set[int]]:
    """What is computed with to the ranks that do so.

    All ranks run the prelude; those of a rehearsal's stages run it.
    """
    readers: dict[str, set[int]] = {}
    for number, stage in enumerate(found.stages):
        for name in stage.program.specs:
            readers.setdefault(name, set()).add(owner[number])
    prelude = found.prelude.program
    for name in () if prelude is None else prelude.specs:
        readers[name] = set(range(ranks))
    if found.rehearsal is not None:
        for name, more in readers_of(found.rehearsal, owner, ranks).items():
            readers.setdefault(name, set()).update(more)
    return readers
