"""Tensors on their way around the ranks of an axis.

A shift sends what a rank has to the next one; started before some
computation and waited for after it, its transfer is hidden. It is an
``all_to_all`` all of whose parts but one are empty: every backend has it,
and NCCL makes one send and one receive of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed._functional_collectives  # noqa: F401 (registers ops)

from passes.collectives import AxisRef

__all__ = ["exchange", "packed", "start_shift", "unpacked", "wait"]

_OPS = torch.ops._c10d_functional


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Several tensors of one dtype as one message, flat."""
    return torch.cat([x.reshape(-1) for x in tensors])


def unpacked(message: torch.Tensor,
             shapes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The tensors of a message, as views."""
    parts = message.split([math.prod(shape) for shape in shapes])
    return [
        part.view(list(shape))
        for part, shape in zip(parts, shapes, strict=True)
    ]


def start_shift(message: torch.Tensor, axis: AxisRef) -> torch.Tensor:
    """Start to send a flat message to the next rank of the axis.

    Returns
    -------
    Tensor
        What comes from the rank before, once :func:`wait` has been called
        on it.
    """
    count, size = message.shape[0], axis.size
    to, source = (axis.coordinate + 1) % size, (axis.coordinate - 1) % size
    return _OPS.all_to_all_single(message, _at(source, count, size),
                                  _at(to, count, size), axis.name)


def wait(message: torch.Tensor) -> torch.Tensor:
    """The message, when it is there."""
    return _OPS.wait_tensor(message)


def exchange(rows: torch.Tensor, gives: Sequence[int], takes: Sequence[int],
             axis: AxisRef) -> torch.Tensor:
    """Give rows to ranks, and take as many.

    Parameters
    ----------
    rows : Tensor
        Ordered by the rank that gets them.
    gives, takes : sequence of int
        How many rows go to each rank and come from it.
    axis : AxisRef

    Returns
    -------
    Tensor
        Rows ordered by the rank that they come from.
    """
    return wait(
        _OPS.all_to_all_single(rows, list(takes), list(gives), axis.name))


def _at(place: int, count: int, size: int) -> list[int]:
    return [count if rank == place else 0 for rank in range(size)]
