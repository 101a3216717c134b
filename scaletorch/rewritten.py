"""Write to parameters what a call gives them before all else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from planner.ir.program import Program

__all__ = ["refuse_in_stages", "rewrite"]


def refuse_in_stages(program: Program) -> None:
    """A stage does not hold what another one's parameters are made of.

    Raises
    ------
    ValueError
    """
    if program.written:
        name = program.written[0].partition(":")[2]
        raise ValueError(
            f"the forward pass writes to the parameter {name}, which stages "
            "of a pipeline can't: use a plan without pp, or write to it after "
            "the optimizer's step")


def rewrite(program: Program, places: Mapping[str, tuple[dict[str, Any],
                                                         str]]) -> None:
    """Give parameters their new values; on all ranks at once.

    Parameters
    ----------
    program : Program
    places : mapping of str to (dict, str)
        The table that holds each parameter and buffer, and its key there.
    """
    rewrites = program.rewrites
    if rewrites is None:
        return
    held = {
        n: places[n][0][places[n][1]]
        for n in (*rewrites.reads, *rewrites.writes) if n in places
    }
    with torch.no_grad():
        state = {n: _whole(t) for n, t in held.items()}
        new = rewrites.values({**program.constants, **state})
        for name, value in new.items():
            held[name].copy_(_like(value, held[name]))


def _whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _like(value: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    if not isinstance(old, DTensor):
        return value
    return distribute_tensor(value,
                             old.device_mesh,
                             old.placements,
                             src_data_rank=None)
