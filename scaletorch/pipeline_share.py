"""What a rank of a pipeline knows of its parameters' place among all."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch

__all__ = ["Held", "PipelineShare", "mark_pipeline", "share_of"]


class Held:
    """The parameters of this rank's stages.

    Parameters
    ----------
    parameters : mapping of str to Tensor
    dtypes : frozenset of torch.dtype
        Those of the trained parameters of all stages.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor],
                 dtypes: frozenset[torch.dtype]) -> None:
        # Weak: the parameters' shares name this.
        self._parameters = {n: weakref.ref(p) for n, p in parameters.items()}
        self.dtypes = dtypes

    def with_gradients(self) -> set[str]:
        """Names of those that have a gradient now."""
        found = {n: p() for n, p in self._parameters.items()}
        return {
            n
            for n, p in found.items() if p is not None and p.grad is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineShare:
    """That a parameter is held by one stage of several.

    Parameters
    ----------
    name : str
    group : ProcessGroup
        Of the ranks with the same place in the other stages.
    counts : bool
        Whether its gradient counts here; of a parameter that several
        stages hold, on the first of them.
    held : Held
        It and the others of this rank.
    """

    name: str
    group: torch.distributed.ProcessGroup
    counts: bool
    held: Held


def mark_pipeline(parameter: torch.Tensor, share: PipelineShare) -> None:
    """Note on a parameter that other stages hold others."""
    parameter._scaletorch_pipeline = share


def share_of(parameter: torch.Tensor) -> PipelineShare | None:
    """What was noted on a parameter."""
    return getattr(parameter, "_scaletorch_pipeline", None)
