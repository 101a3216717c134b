"""Ring attention: queries, keys and values sharded along the sequence."""

from __future__ import annotations

from collections.abc import Iterator

from planner.ir.layout import Placement, S
from planner.rules.elementwise import aligned
from planner.rules.factors import number, place
from planner.rules.registry import OpCall, Option

__all__ = ["RING_LOWERINGS", "ring_options", "ring_refusal"]

RING_LOWERINGS = ("ring_attention", "ring_attention_causal",
                  "ring_attention_zigzag")
"""Names of the lowerings that send keys and values around an axis."""


def ring_options(call: OpCall) -> Iterator[Option]:
    """The options of an attention that may go round; none where it may not.

    Causal attention goes over contiguous shards, the last of which see
    most, or in zig-zag order, which all ranks have as much to do in, where
    half a rank's shard is a whole number of rows.
    """
    if ring_refusal(call) is not None:
        return
    inputs: dict[int | None, Placement] = {i: S(2) for i in range(3)}
    mask = number(call.arg(3, "attn_mask"))
    if mask is not None and aligned(call.inputs[mask], call.outputs[0],
                                    2) is not None:
        inputs[mask] = S(call.inputs[mask].ndim - 2)
    if not call.arg(5, "is_causal", False):
        yield place(call, inputs, S(2), lowering="ring_attention")
        return
    yield place(call, inputs, S(2), lowering="ring_attention_causal")
    halves, rest = divmod(call.inputs[0].shape[2], 2)
    if halves and not rest:
        yield place(call,
                    inputs,
                    S(2),
                    lowering="ring_attention_zigzag",
                    units=halves)


def ring_refusal(call: OpCall) -> str | None:
    """Why an attention can't go round; None if it can.

    Parameters
    ----------
    call : OpCall
        Of scaled_dot_product_attention.
    """
    query, key, value = call.inputs[:3]
    if call.arg(4, "dropout_p", 0.0):
        return (f"it drops out {call.arg(4, 'dropout_p')} of its weights, "
                "which parts over blocks of keys would draw otherwise; use "
                "ulysses or gather_kv")
    if {query.ndim, key.ndim, value.ndim} != {4}:
        return ("its operands are not (batch, heads, sequence, width); "
                "give it four dims")
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        return "its operands' batches are broadcast; expand them"
    if key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1]:
        return "its heads are broadcast; expand them"
    if query.shape[1] != key.shape[1] and not call.kwargs.get("enable_gqa"):
        return "its heads are broadcast; expand them or use enable_gqa"
    if call.arg(5, "is_causal", False) and query.shape[2] != key.shape[2]:
        return (f"it is causal over {query.shape[2]} queries and "
                f"{key.shape[2]} keys, which do not line up on the ranks")
    return None
