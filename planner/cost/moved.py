"""Bytes that calls which only move data read and write, both ways."""

from __future__ import annotations

from planner.cost.flops import op_name
from planner.cost.saved import is_view
from planner.rules.registry import OpCall

__all__ = [
    "backward_bytes_moved", "bytes_moved", "gradient_bytes", "passes_gradient"
]

_FREE_BACKWARD = frozenset(
    "add cat stack sum mean clone contiguous alias detach view_as_real "
    "view_as_complex lift_fresh".split())
_COPYING_VIEW_BACKWARD = frozenset(
    "slice select narrow split split_with_sizes chunk unbind expand "
    "expand_as broadcast_to diagonal unfold tensor_split".split())
_GATHERS = frozenset("embedding index_select gather index".split())


def bytes_moved(call: OpCall) -> int:
    """Bytes that the forward reads and writes; 0 for views."""
    if is_view(call):
        return 0
    written = sum(spec.size_bytes for spec in call.outputs)
    read = sum(spec.size_bytes for spec in call.inputs)
    name = op_name(call.target)
    if name in _GATHERS:
        # Only the rows that are asked for are read from the table.
        indices = sum(s.size_bytes for s in call.inputs
                      if not s.dtype.is_floating_point)
        read = min(read, written + indices)
    if name == "cross_entropy_loss":
        # log_softmax writes its result and nll_loss reads it.
        read += 2 * call.inputs[0].size_bytes
    return read + written


def gradient_bytes(call: OpCall) -> tuple[int, int]:
    """Bytes of the gradients that the backward takes, and gives."""
    taken = sum(s.size_bytes for s in call.outputs if s.requires_grad)
    given = sum(s.size_bytes for s in call.inputs if s.requires_grad)
    return taken, given if taken else 0


def backward_bytes_moved(call: OpCall, kept_bytes: int) -> int:
    """Bytes that the backward reads and writes; 0 where it only passes a
    gradient on.

    Parameters
    ----------
    call : OpCall
    kept_bytes : int
        Of what the forward saved for it.
    """
    taken, given = gradient_bytes(call)
    name = op_name(call.target)
    if not taken or passes_gradient(call):
        return 0
    if name == "cross_entropy_loss":
        # The gradient of the log-softmax is written, and read again.
        taken += 2 * call.inputs[0].size_bytes
    return taken + given + kept_bytes


def passes_gradient(call: OpCall) -> bool:
    """Whether the gradient of a call's input is that of its output.

    Or a view of it: the backward computes nothing and allocates nothing.
    """
    name = op_name(call.target)
    return (is_view(call)
            and name not in _COPYING_VIEW_BACKWARD) or (name in _FREE_BACKWARD)
