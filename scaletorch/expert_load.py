"""How evenly a mixture's tokens are spread over its experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from scaletorch.module import ParallelModule
from scaletorch.runtime.compiled import Compiled

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
        When nothing has run yet, or the module is a pipeline.
    """
    known = [k for k in module._compiled.values() if isinstance(k, Compiled)]
    if not known:
        raise ValueError("a pipeline's stages do not count the tokens of "
                         "their experts; use a plan without a pipeline")
    last = max(known, key=lambda k: k.executor.counts.began)
    if not last.executor.counts.began:
        raise ValueError("no forward pass has run yet, so that no expert has "
                         "got a token; call the module first")
    return tuple(_load(last, *found) for found in last.executor.counts.found)


def _load(known: Compiled, number: int, label: str,
          counts: torch.Tensor) -> ExpertLoad:
    step = known.executor.program.steps[number]
    index = known.layout.classes[step.kernel].calls[label].input(1)
    tokens = counts.clone()
    for placement, name in zip(index, known.layout.mesh.names, strict=True):
        if placement.is_shard:
            dist.all_reduce(tokens, group=known.mesh.get_group(name))
    return ExpertLoad(block=step.name, tokens=tokens.cpu())
