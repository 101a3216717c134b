"""Sequences in the order that balances causal attention over ranks.

Of `2n` chunks of a sequence over `n` ranks, rank `r` holds `2r` and `2r + 1`
where shards are contiguous. In zig-zag order it holds `r` and `2n - 1 - r`,
an early and a late one, so that all ranks have equally many keys before
their queries (Brandon et al., Striped Attention, 2023, balance likewise;
the order is that of Llama 3's context parallelism, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from passes.collectives import AxisRef
from passes.ring import exchange, packed, unpacked

__all__ = ["from_zigzag", "to_zigzag"]

_Tensors = tuple[torch.Tensor, ...]


def to_zigzag(tensors: Sequence[torch.Tensor],
              axis: AxisRef) -> tuple[torch.Tensor, ...]:
    """From contiguous shards of dim -2 to zig-zag ones, differentiably.

    Parameters
    ----------
    tensors : sequence of Tensor
        Of one dtype; they go in one message.
    axis : AxisRef
    """
    return _Exchange.apply(axis, True, *tensors)


def from_zigzag(tensors: Sequence[torch.Tensor],
                axis: AxisRef) -> tuple[torch.Tensor, ...]:
    """The inverse of :func:`to_zigzag`."""
    return _Exchange.apply(axis, False, *tensors)


class _Exchange(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, *args: Any) -> _Tensors:
        axis, inwards, *tensors = args
        ctx.axis, ctx.inwards = axis, inwards
        return _exchanged(tuple(tensors), axis, inwards)

    @staticmethod
    def backward(ctx: Any, *tensors: torch.Tensor) -> tuple[Any, ...]:
        return None, None, *_exchanged(tensors, ctx.axis, not ctx.inwards)


def _exchanged(tensors: Sequence[torch.Tensor], axis: AxisRef,
               inwards: bool) -> tuple[torch.Tensor, ...]:
    """Both halves of every tensor to the ranks that they belong to."""
    rank, size = axis.coordinate, axis.size
    contiguous, zigzag = (2 * rank, 2 * rank + 1), (rank, 2 * size - 1 - rank)
    mine, wanted = (contiguous, zigzag) if inwards else (zigzag, contiguous)
    gives = [_holder(c, size, zigzag=inwards) for c in mine]
    takes = [_holder(c, size, zigzag=not inwards) for c in wanted]
    halves = list(zip(*(x.chunk(2, -2) for x in tensors), strict=True))
    shapes = [half.shape for half in halves[0]]
    order = sorted(range(2), key=lambda i: (gives[i], mine[i]))
    rows = torch.stack([packed(halves[i]) for i in order])
    found = exchange(rows, _counts(gives, size), _counts(takes, size), axis)
    # Rows come by source, and from one source by chunk.
    came = sorted(range(2), key=lambda i: (takes[i], wanted[i]))
    first, second = (unpacked(found[came.index(i)], shapes) for i in range(2))
    return tuple(
        torch.cat(pair, -2) for pair in zip(first, second, strict=True))


def _holder(chunk: int, size: int, *, zigzag: bool) -> int:
    """The rank that has a chunk in one of the two orders."""
    return min(chunk, 2 * size - 1 - chunk) if zigzag else chunk // 2


def _counts(ranks: Sequence[int], size: int) -> list[int]:
    return [ranks.count(r) for r in range(size)]
