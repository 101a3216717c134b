"""Attention: by sample, by head, by query position, around a ring."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import Placement, S
from planner.rules.elementwise import aligned
from planner.rules.factors import number, place
from planner.rules.registry import OpCall, Option, register
from planner.rules.ring import ring_options

__all__ = ["scaled_dot_product_attention"]

aten = torch.ops.aten


@register(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(call: OpCall) -> Iterable[Option]:
    """Batch dims, heads (grouped ones by whole groups) and queries.

    A query shard sees all keys. Where attention is causal its rows are
    not the first ones of the mask, which takes a lowering. Where keys are
    sharded like queries they go around the axis.
    """
    query = call.inputs[0].ndim - 2
    for dim in range(query):
        yield place(call, _placements(call, dim), S(dim))
    causal = call.arg(5, "is_causal", False)
    mask = _mask(call, query)
    yield place(call, {
        0: S(query),
        **mask
    },
                S(query),
                lowering="sdpa_query_shard" if causal else None)
    yield from ring_options(call)


def _placements(call: OpCall, dim: int) -> dict[int | None, Placement]:
    """Every operand's dim that lines up with the output's `dim`."""
    found: dict[int | None, Placement] = {}
    for i in range(3):
        own = aligned(call.inputs[i], call.outputs[0], dim)
        if own is not None:
            found[i] = S(own)
    return {**found, **_mask(call, dim)}


def _mask(call: OpCall, dim: int) -> dict[int | None, Placement]:
    index = number(call.arg(3, "attn_mask"))
    if index is None:
        return {}
    own = aligned(call.inputs[index], call.outputs[0], dim)
    return {} if own is None else {index: S(own)}
