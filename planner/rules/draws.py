"""Which calls draw random numbers."""

from __future__ import annotations

import torch

from planner.rules.registry import OpCall

__all__ = ["draws"]

_ATEN = torch.ops.aten
_RECURRENT = (_ATEN.gru.input, _ATEN.lstm.input, _ATEN.rnn_relu.input,
              _ATEN.rnn_tanh.input)


def draws(call: OpCall) -> bool:
    """Whether a call draws random numbers, with the arguments it has."""
    tags = getattr(call.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags:
        return False
    if call.target is _ATEN.scaled_dot_product_attention.default:
        return call.arg(4, "dropout_p", 0.0) > 0.0
    if call.target in _RECURRENT:
        return call.arg(5, "dropout") > 0.0 and call.arg(6, "train")
    return True
