"""What ring attention moves, and what it computes meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from planner.cost.flops import attention_flops
from planner.cost.lowering_move import LoweringMove
from planner.rules.registry import OpCall, Option

__all__ = ["ring_moves", "ring_unevenness"]

_HALF = (torch.float16, torch.bfloat16)


def ring_moves(call: OpCall, options: Sequence[Option], sizes: Sequence[int],
               axis: int) -> list[LoweringMove]:
    """The messages of an attention that goes round an axis.

    Each step's computation hides one transfer of keys and values, in the
    backward also one of their gradients; only the gradients' last way home
    is never hidden.

    Parameters
    ----------
    call : OpCall
        Of scaled_dot_product_attention.
    options : sequence of Option
        One per axis; that of `axis` is a ring.
    sizes : sequence of int
    axis : int
    """
    steps = sizes[axis] - 1
    if steps == 0:
        return []
    query, key, value = (_local_bytes(call, i, options, sizes)
                         for i in range(3))
    share = math.prod(n for o, n in zip(options, sizes, strict=True)
                      if o.is_sharded) * sizes[axis]
    forward, backward = (f / share * steps for f in attention_flops(call))
    block = key + value
    found = [
        LoweringMove(kind="send",
                     direction="forward",
                     size_bytes=block * steps,
                     times=steps,
                     flops=forward,
                     dtype=call.inputs[0].dtype)
    ]
    trained = call.outputs[0].requires_grad
    if trained:
        # Gradients are summed in float32 at least.
        grads = block * (2 if call.inputs[1].dtype in _HALF else 1)
        found += [
            LoweringMove(kind="send",
                         direction="backward",
                         size_bytes=(block + grads) * steps,
                         times=steps,
                         flops=backward,
                         dtype=call.inputs[0].dtype),
            LoweringMove(kind="send", direction="backward", size_bytes=grads)
        ]
    if options[axis].lowering == "ring_attention_zigzag":
        output = query * call.inputs[2].shape[-1] / call.inputs[0].shape[-1]
        for direction in ("forward", "backward")[:1 + trained]:
            for size in (query + block, output):
                found.append(
                    LoweringMove(kind="all_to_all",
                                 direction=direction,
                                 size_bytes=size))
    return found


def ring_unevenness(options: Sequence[Option], sizes: Sequence[int]) -> float:
    """How much more than the mean the rank with the last queries computes.

    Causal attention over contiguous shards: of `n` blocks of keys it sees
    all but half of one, the mean is half of them.
    """
    more = 1.0
    for option, size in zip(options, sizes, strict=True):
        if option.lowering == "ring_attention_causal":
            more *= 2 - 1 / size
    return more


def _local_bytes(call: OpCall, number: int, options: Sequence[Option],
                 sizes: Sequence[int]) -> float:
    shares = math.prod(n for o, n in zip(options, sizes, strict=True)
                       if o.inputs[number].is_shard)
    return call.inputs[number].size_bytes / shares
