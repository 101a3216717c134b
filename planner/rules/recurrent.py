"""Recurrent layers: by sample."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planner.ir.layout import S
from planner.rules.factors import place
from planner.rules.registry import OpCall, Option, register

__all__ = ["cell", "layers"]

aten = torch.ops.aten


@register(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input,
          aten.rnn_relu.input)
def layers(call: OpCall) -> Iterable[Option]:
    """The batch dim of the input and of the states."""
    states = len(call.outputs) - 1
    batch = S(0 if call.args[8] else 1)
    yield place(call, {
        0: batch,
        **{
            1 + i: S(1)
            for i in range(states)
        }
    }, [batch, *[S(1)] * states])


@register(aten.lstm_cell.default, aten.gru_cell.default,
          aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default)
def cell(call: OpCall) -> Iterable[Option]:
    """The batch dim of the input and of the states."""
    if call.inputs[0].ndim == 2:
        states = len(call.outputs)
        yield place(call, {i: S(0) for i in range(1 + states)}, S(0))
