"""Functions that calls evaluate at every element."""

from __future__ import annotations

from planner.cost.flops import op_name
from planner.rules.registry import OpCall

__all__ = ["function_name"]

_FUNCTIONS = {
    "gelu": ("gelu", "erf", "mish"),
    "silu": ("silu", "sigmoid", "tanh", "exp", "log", "sin", "cos", "softplus",
             "pow", "logsigmoid"),
    "softmax":
    ("softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp"),
    "layer_norm": ("layer_norm", "group_norm", "batch_norm",
                   "native_layer_norm", "native_group_norm"),
    "rms_norm": ("rms_norm", "_fused_rms_norm"),
    "cross_entropy": ("cross_entropy_loss", ),
}
_FUNCTION_OF = {op: name for name, ops in _FUNCTIONS.items() for op in ops}


def function_name(call: OpCall) -> str:
    """What a call evaluates at every element; empty where it only moves.

    A processor without units for it takes longer over an exponential than
    over the bytes. The profile measures one of each name; the coefficients
    ``gelu_s_per_byte``, ``gelu_backward_s_per_byte``, ... are the seconds
    that a byte takes besides being moved.
    """
    return _FUNCTION_OF.get(op_name(call.target), "")
