"""The work of each kind of call: products, attention, what moves bytes."""

from __future__ import annotations

from planner.cost.beside import Beside
from planner.cost.elementwise import function_name
from planner.cost.experts import expert_sizes
from planner.cost.flops import (Contraction, attention_flops, attention_keys,
                                contraction, op_name)
from planner.cost.moved import (backward_bytes_moved, bytes_moved,
                                gradient_bytes)
from planner.cost.opaque import BACKWARD_RUNS, opaque_sizes
from planner.cost.saved import saved
from planner.cost.work import Work
from planner.rules.registry import OpCall

__all__ = ["work"]

_EXPERT_KERNELS = 12
"""Launches of a forward: sorting, counting, two products, gate, sums."""
_PRODUCT_VIEWS = 3
"""Rows joined, a weight transposed, rows parted again."""


def work(call: OpCall) -> Work:
    """The work of a forward call and of its backward.

    Parameters
    ----------
    call : OpCall
        Over whole tensors; inputs that need a gradient are marked in
        their specs. Unknown operators count as the bytes they move.
    """
    if op_name(call.target) == "scaled_dot_product_attention":
        return _attention(call)
    if op_name(call.target) == "experts":
        return _experts(call)
    if op_name(call.target) == "opaque":
        return _opaque(call)
    product = contraction(call)
    if product is not None:
        return _product(call, product)
    return _memory_bound(call)


def _attention(call: OpCall) -> Work:
    forward_flops, backward_flops = attention_flops(call)
    taken, given = gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    return Work(kind="attention",
                forward_flops=forward_flops,
                forward_bytes=bytes_moved(call),
                forward_kernels=1,
                backward_flops=backward_flops if taken else 0.0,
                backward_bytes=kept_bytes + taken + given if taken else 0,
                backward_kernels=1 if taken else 0,
                saved=kept,
                saved_bytes=kept_bytes,
                keys=attention_keys(call))


def _experts(call: OpCall) -> Work:
    """Two products, and rows picked, gated and summed around them."""
    sizes = expert_sizes(call)
    taken, given = gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    matrices = sum(s.size_bytes for s in call.inputs[3:])
    return Work(kind="matmul",
                forward_flops=sizes.flops,
                forward_bytes=matrices + sizes.product_bytes,
                forward_kernels=_EXPERT_KERNELS,
                backward_flops=2 * sizes.flops if taken else 0.0,
                backward_bytes=matrices + given +
                2 * sizes.product_bytes if taken else 0,
                backward_kernels=2 * _EXPERT_KERNELS if taken else 0,
                saved=kept,
                saved_bytes=kept_bytes,
                forward_beside=sizes.forward_beside,
                backward_beside=sizes.backward_beside if taken else Beside())


def _opaque(call: OpCall) -> Work:
    sizes = opaque_sizes(call)
    runs = BACKWARD_RUNS if any(s.requires_grad for s in call.outputs) else 0
    kept = saved(call)
    return Work(kind="matmul",
                forward_flops=float(sizes.flops),
                forward_bytes=sizes.moved_bytes,
                forward_kernels=sizes.kernels,
                backward_flops=float(runs * sizes.flops),
                backward_bytes=runs * sizes.moved_bytes,
                backward_kernels=runs * sizes.kernels,
                saved=kept,
                saved_bytes=kept.size_bytes(call))


def _product(call: OpCall, product: Contraction) -> Work:
    taken, given = gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    gradients = sum(call.inputs[i].requires_grad
                    for i in product.operands) if taken else 0
    factors = [call.inputs[i] for i in product.operands]
    # The gradient of what is added is a sum of its own over all rows.
    sums = sum(s.requires_grad and s.numel < call.outputs[0].numel
               for i, s in enumerate(call.inputs)
               if i not in product.operands) if taken else 0
    return Work(kind=product.kind,
                forward_flops=float(product.flops),
                forward_bytes=bytes_moved(call),
                forward_kernels=1,
                backward_flops=float(gradients * product.flops),
                backward_bytes=(gradients + sums) * taken + kept_bytes + given,
                backward_kernels=gradients + sums,
                saved=kept,
                saved_bytes=kept_bytes,
                factors=product.operands,
                results=(call.outputs[0].numel,
                         *(s.numel if taken and s.requires_grad else 0
                           for s in factors)),
                forward_views=_PRODUCT_VIEWS,
                backward_views=_PRODUCT_VIEWS * gradients)


def _memory_bound(call: OpCall) -> Work:
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    backward = backward_bytes_moved(call, kept_bytes)
    forward = bytes_moved(call)
    # Of a log-softmax and of what picks from it.
    kernels = 2 if op_name(call.target) == "cross_entropy_loss" else 1
    view = not forward
    taken, _ = gradient_bytes(call)
    return Work(forward_bytes=forward,
                forward_kernels=kernels if forward else 0,
                backward_bytes=backward,
                backward_kernels=kernels if backward else 0,
                saved=kept,
                saved_bytes=kept_bytes,
                function=function_name(call),
                forward_views=1 if view else 0,
                backward_views=1 if view and taken else 0)
