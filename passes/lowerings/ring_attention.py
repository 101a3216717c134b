"""Attention with queries, keys and values sharded along the sequence.

Keys and values travel around the ranks in as many steps as there are; each
step attends to the block that is here while the next one is on its way, and
parts are merged by their logarithms of normalisers. In the backward the
blocks go round once more, and the gradients of keys and values with them,
one step behind, until they are home. Source: Liu, Zaharia and Abbeel, Ring
Attention with Blockwise Transformers for Near-Infinite Context, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from passes.collectives import AxisRef
from passes.lowerings.attention_kernels import (Attended, Gradients, Tile,
                                                attend, attend_backward)
from passes.lowerings.registry import Context, register_lowering
from passes.lowerings.zigzag import from_zigzag, to_zigzag
from passes.ring import packed, start_shift, unpacked, wait

__all__ = ["ring_attention"]

_NAMES = ("ring_attention", "ring_attention_causal", "ring_attention_zigzag")


@register_lowering(*_NAMES)
def ring_attention(context: Context,
                   query: torch.Tensor,
                   key: torch.Tensor,
                   value: torch.Tensor,
                   attn_mask: torch.Tensor | None = None,
                   dropout_p: float = 0.0,
                   is_causal: bool = False,
                   *,
                   scale: float | None = None,
                   enable_gqa: bool = False) -> torch.Tensor:
    """This rank's queries against all ranks' keys, which come by.

    Under ``ring_attention_zigzag`` the ranks first exchange halves of their
    shards, so that a causal mask leaves each of them as much to do, and
    exchange the output back.

    Parameters
    ----------
    context : Context
    query : Tensor
        This rank's, of shape (..., heads, queries, width).
    key, value : Tensor
        This rank's, of shape (..., heads, keys, width).
    attn_mask : Tensor, optional
        For this rank's queries and the keys of all.
    dropout_p : float
        0: the rule offers no ring with dropout.
    is_causal, scale, enable_gqa
        As of ``aten.scaled_dot_product_attention``.
    """
    axis, = context.named(*_NAMES)
    assert dropout_p == 0.0, "the rule offers no ring with dropout"
    zigzag = bool(context.named("ring_attention_zigzag"))
    ring = _Ring(axis=axis,
                 causal=is_causal,
                 zigzag=zigzag,
                 scale=scale or 1 / math.sqrt(query.shape[-1]),
                 mask_gradient=attn_mask is not None
                 and attn_mask.requires_grad)
    if zigzag:
        query, key, value = to_zigzag((query, key, value), axis)
    output = _RingAttention.apply(query, key, value, attn_mask, ring)
    return from_zigzag((output, ), axis)[0] if zigzag else output


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a step computes: queries from `row` on, keys up to `keys`."""

    row: int
    keys: int
    causal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """How one attention goes round.

    Parameters
    ----------
    axis : AxisRef
    causal, zigzag : bool
    scale : float
    mask_gradient : bool
    """

    axis: AxisRef
    causal: bool
    zigzag: bool
    scale: float
    mask_gradient: bool

    def source(self, step: int) -> int:
        """Whose keys are here in a step."""
        return (self.axis.coordinate - step) % self.axis.size

    def part(self, step: int, rows: int, keys: int) -> _Part | None:
        """What of a block is to be seen; None where nothing is."""
        if step == 0 or not self.causal:
            return _Part(row=0, keys=keys, causal=self.causal)
        earlier = self.source(step) < self.axis.coordinate
        if not self.zigzag:
            return _Part(row=0, keys=keys) if earlier else None
        # An earlier rank's first half is before all queries here and its
        # second after them; a later rank's block is before the second
        # half of the queries.
        return (_Part(row=0, keys=keys //
                      2) if earlier else _Part(row=rows // 2, keys=keys))

    def tile(self, part: _Part, step: int, query: torch.Tensor,
             block: tuple[torch.Tensor,
                          torch.Tensor], mask: torch.Tensor | None) -> Tile:
        """The operands of a step's kernel."""
        key, value = block
        if mask is not None and mask.shape[-1] > 1:
            columns = key.shape[-2]
            mask = mask.narrow(-1, self.source(step) * columns, columns)
        return Tile(query=query[..., part.row:, :],
                    key=_per_query(key[..., :part.keys, :], query),
                    value=_per_query(value[..., :part.keys, :], query),
                    mask=mask,
                    causal=part.causal,
                    scale=self.scale,
                    mask_gradient=self.mask_gradient)


class _RingAttention(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor,
                value: torch.Tensor, mask: torch.Tensor | None,
                ring: _Ring) -> torch.Tensor:
        whole = _forward(ring, query, key, value, mask)
        ctx.ring = ring
        ctx.save_for_backward(query, key, value, mask, whole.output,
                              whole.logsumexp, *whole.rest)
        return whole.output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, mask, output, logsumexp, *rest = ctx.saved_tensors
        whole = Attended(output=output, logsumexp=logsumexp, rest=tuple(rest))
        found = _backward(ctx.ring, query, key, value, mask, whole, grad)
        return *found, None


def _blocks(
    ring: _Ring, key: torch.Tensor, value: torch.Tensor
) -> Iterator[tuple[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Each step's keys and values; the next are under way meanwhile."""
    shapes = (key.shape, value.shape)
    block, message = (key, value), packed((key, value))
    last = ring.axis.size - 1
    for step in range(ring.axis.size):
        coming = start_shift(message, ring.axis) if step < last else None
        yield step, block
        if coming is not None:
            message = wait(coming)
            block = tuple(unpacked(message, shapes))


def _forward(ring: _Ring, query: torch.Tensor, key: torch.Tensor,
             value: torch.Tensor, mask: torch.Tensor | None) -> Attended:
    whole: Attended | None = None
    for step, block in _blocks(ring, key, value):
        part = ring.part(step, query.shape[-2], key.shape[-2])
        if part is None:
            assert whole is not None
            whole = replace(whole, output=_after(whole.output, block))
            continue
        found = attend(ring.tile(part, step, query, block, mask))
        whole = _wide(found) if whole is None else _merged(
            whole, found, part.row)
    assert whole is not None
    return Attended(output=whole.output.to(query.dtype),
                    logsumexp=whole.logsumexp,
                    rest=whole.rest)


def _wide(found: Attended) -> Attended:
    """Outputs are summed in the dtype of the logarithms."""
    return Attended(output=found.output.to(found.logsumexp.dtype),
                    logsumexp=found.logsumexp,
                    rest=found.rest)


def _merged(whole: Attended, found: Attended, row: int) -> Attended:
    """Rows from `row` on, over the keys of both."""
    before = whole.logsumexp[..., row:]
    both = torch.logaddexp(before, found.logsumexp)
    finite = torch.where(both == -math.inf, 0.0, both)
    old = (before - finite).exp()[..., None] * whole.output[..., row:, :]
    new = (found.logsumexp - finite).exp()[..., None] * found.output
    output = old + new
    if row:
        output = torch.cat((whole.output[..., :row, :], output), -2)
        both = torch.cat((whole.logsumexp[..., :row], both), -1)
    return Attended(output=output, logsumexp=both, rest=whole.rest)


def _backward(ring: _Ring, query: torch.Tensor, key: torch.Tensor,
              value: torch.Tensor, mask: torch.Tensor | None, whole: Attended,
              grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Gradients of query, key, value and mask."""
    rows, keys = query.shape[-2], key.shape[-2]
    wide = whole.logsumexp.dtype
    grad_query, travelling = None, None
    scores: dict[int, torch.Tensor] = {}
    for step, block in _blocks(ring, key, value):
        part = ring.part(step, rows, keys)
        if part is None:
            assert grad_query is not None and travelling is not None
            grad_query = _after(grad_query, block)
            travelling = start_shift(_after(wait(travelling), block),
                                     ring.axis)
            continue
        tile = ring.tile(part, step, query, block, mask)
        found = attend_backward(tile, _from(whole, part.row),
                                grad[..., part.row:, :])
        if found.scores is not None:
            scores[ring.source(step)] = found.scores
        mine = F.pad(found.query.to(wide), (0, 0, part.row, 0))
        grad_query = mine if grad_query is None else grad_query + mine
        own = _block_gradient(found, key, value, wide)
        if travelling is not None:
            own = wait(travelling) + own
        travelling = start_shift(own, ring.axis)
    assert grad_query is not None and travelling is not None
    home = unpacked(wait(travelling), (key.shape, value.shape))
    return (grad_query.to(query.dtype), *(x.to(key.dtype) for x in home),
            _mask_gradient(scores, mask))


def _after(x: torch.Tensor, block: tuple[torch.Tensor,
                                         torch.Tensor]) -> torch.Tensor:
    """The same, once a block is here that is not looked at.

    All ranks must meet in the block's transfer, which one that reads
    nothing of it would drop as dead.
    """
    return x + torch.zeros_like(block[0].reshape(-1)[:1], dtype=x.dtype)


def _from(whole: Attended, row: int) -> Attended:
    return Attended(output=whole.output[..., row:, :],
                    logsumexp=whole.logsumexp[..., row:],
                    rest=whole.rest)


def _per_query(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Key heads that several query heads share, once for each."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], 1)


def _block_gradient(found: Gradients, key: torch.Tensor, value: torch.Tensor,
                    wide: torch.dtype) -> torch.Tensor:
    """A block's gradient as a message: shared heads summed, unseen keys 0."""
    parts = []
    for grad, like in ((found.key, key), (found.value, value)):
        shared = grad.to(wide).unflatten(1, (like.shape[1], -1)).sum(2)
        parts.append(
            F.pad(shared, (0, 0, 0, like.shape[-2] - shared.shape[-2])))
    return packed(parts)


def _mask_gradient(scores: dict[int, torch.Tensor],
                   mask: torch.Tensor | None) -> torch.Tensor | None:
    """The scores' gradient, its columns in order, summed to the mask."""
    if mask is None or not scores:
        return None
    columns = torch.cat([scores[source] for source in sorted(scores)], -1)
    return columns.sum_to_size(mask.shape).to(mask.dtype)
