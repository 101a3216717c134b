"""What a lowering sends."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LoweringMove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringMove:
    """One collective of a lowering, or several that are alike.

    Parameters
    ----------
    kind : str
        A key of :data:`planner.cost.collective.COLLECTIVES`.
    direction : str
        ``forward`` or ``backward``.
    size_bytes : float
        As :mod:`planner.cost.collective` counts the kind's bytes, of all.
    times : int
        How many follow each other.
    flops : float
        Of attention that is computed while they are on their way.
    dtype : torch.dtype
        Of that.
    """

    kind: str
    direction: str
    size_bytes: float
    times: int = 1
    flops: float = 0.0
    dtype: torch.dtype = torch.float32
