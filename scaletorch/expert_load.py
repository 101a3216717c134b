"""How evenly a mixture's tokens are spread over its experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from planner.ir.layouts import ProgramLayout
from scaletorch.module import ParallelModule
from scaletorch.runtime.compiled import Compiled
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.lost import Watched
from scaletorch.runtime.pipeline.program import PipelineProgram

__all__ = ["ExpertLoad", "expert_load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """Tokens of the experts of one layer.

    Parameters
    ----------
    block : str
        Where in the model, as in the plan.
    tokens : Tensor
        (experts,) int64, of the global batch; a token counts once for each
        expert that it goes to.

    Examples
    --------
    >>> load = ExpertLoad(block="layers.0", tokens=torch.tensor([6, 0, 1, 1]))
    >>> load.imbalance(), load.imbalance(ranks=2)
    (3.0, 1.5)
    """

    block: str
    tokens: torch.Tensor

    def imbalance(self, ranks: int | None = None) -> float:
        """The most tokens over the mean: 1 when all have as many.

        Parameters
        ----------
        ranks : int, optional
            Of ranks that hold as many experts each, one after the other;
            of single experts if left out. What ``expert_imbalance`` of
            planning asks for.

        Raises
        ------
        ValueError
            When the experts do not divide over so many ranks.
        """
        groups = len(self.tokens) if ranks is None else ranks
        if groups < 1 or len(self.tokens) % groups:
            raise ValueError(f"{len(self.tokens)} experts do not divide over "
                             f"{groups} ranks")
        sums = self.tokens.view(groups, -1).sum(1).double()
        return float(sums.max() / sums.mean().clamp(min=1e-12))


def expert_load(module: ParallelModule) -> tuple[ExpertLoad, ...]:
    """Tokens per expert in the last forward pass.

    The pass itself keeps only what it has counted anyway; the sum over
    ranks is taken here, so that all ranks must call this together.

    Parameters
    ----------
    module : ParallelModule

    Returns
    -------
    tuple of ExpertLoad
        One per layer of experts, in the order of the program; the same on
        every rank.

    Raises
    ------
    ValueError
        When nothing has run yet.
    """
    last = max(module._compiled.values(), key=_began)
    if not _began(last):
        raise ValueError("no forward pass has run yet, so that no expert has "
                         "got a token; call the module first")
    if isinstance(last, Compiled):
        groups = [last.mesh.get_group(n) for n in last.layout.mesh.names]
        return tuple(_loads(last.executor, last.layout, groups))
    own = {
        number:
        list(_loads(executor, last.stages[number].layout, last.place.groups))
        for number, executor in last.executors.items()
    }
    every = {
        n: loads
        for found in module.agreement.gather(own)
        for n, loads in found.items()
    }
    return tuple(load for _, loads in sorted(every.items()) for load in loads)


def _began(known: Compiled | PipelineProgram) -> int:
    """When it began last; 0 when it never did."""
    if isinstance(known, Compiled):
        return known.executor.counts.began
    return max(e.counts.began for e in known.executors.values())


def _loads(executor: Executor, layout: ProgramLayout,
           groups: Sequence[Any]) -> Iterator[ExpertLoad]:
    """What a rank's program has counted, over its mesh axes.

    An axis without a group is that of the micro-batches.
    """
    for (number, label), counts in executor.counts.by_call().items():
        step = executor.program.steps[number]
        index = layout.classes[step.kernel].calls[label].input(1)
        sharded = [
            group for placement, group in zip(index, groups, strict=True)
            if placement.is_shard
        ]
        tokens = torch.stack(counts if None in sharded else counts[:1]).sum(0)
        for group in sharded:
            if group is not None:
                with Watched("adding up the tokens of experts", group):
                    dist.all_reduce(tokens, group=group)
        yield ExpertLoad(block=step.name, tokens=tokens.cpu())
