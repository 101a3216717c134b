"""From a model to a :class:`planner.ir.program.Program`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from planner.capture.autocast import ambient_autocast
from planner.capture.builder import build_program
from planner.capture.entry import (Call, Entry, bind_inputs,
                                   default_example_inputs, split_example)
from planner.capture.ladder import trace
from planner.capture.refuse import check_loss, check_model, unwrap
from planner.garbage import new_objects_alone
from planner.ir.program import Program

__all__ = ["capture", "capture_call"]


def capture(model: nn.Module,
            example_inputs: Any = None,
            *,
            loss_fn: Callable[..., Any] | None = None,
            opaque: bool = True) -> Program:
    """Capture a model's forward training program, cut into blocks.

    Three ways are tried: ``torch.export``, which knows module paths; for
    what it refuses ``make_fx``, whose program is one block; and for what
    both refuse the same with the smallest refused modules *opaque*, run as
    they are by every rank. `Program.notes` says so. The error gives the
    reasons where they differ.

    Parameters
    ----------
    model : nn.Module
        On any one device, also meta; nothing is computed. A module that
        was given to ``torch.compile`` is captured as it was before.
    example_inputs : tuple, dict or Tensor, optional
        One global batch (meta or fake tensors will do). Left out: the
        model's ``example_inputs()`` or ``dummy_inputs``.
    loss_fn : callable, optional
        ``loss_fn(output, *targets)``; the targets come after the model's
        inputs in `example_inputs`.
    opaque : bool
        Whether modules that can't be traced may be run as they are.

    Raises
    ------
    CaptureError
        When the model can't be traced, with its line and a way out.
    TypeError, ValueError
        When the inputs do not fit the model, or the model is wrapped,
        sparse, quantised or on several devices.
    """
    model = unwrap(model)
    check_model(model)
    args, kwargs = (default_example_inputs(model) if example_inputs is None
                    else split_example(example_inputs))
    return capture_call(model,
                        bind_inputs(model, args, kwargs, loss_fn),
                        loss_fn=loss_fn,
                        opaque=opaque)


def capture_call(model: nn.Module,
                 call: Call,
                 *,
                 loss_fn: Callable[..., Any] | None = None,
                 opaque: bool = True) -> Program:
    """Capture for a call whose inputs are already bound.

    A ``torch.autocast`` that is active around this is part of the program.

    Parameters
    ----------
    model : nn.Module
    call : Call
        As :func:`planner.capture.entry.bind_inputs` gives it.
    loss_fn : callable, optional
    opaque : bool
        Whether modules that can't be traced may be run as they are.

    Raises
    ------
    CaptureError
        When the model can't be traced, with its line and a way out.
    TypeError, ValueError
        When the model is wrapped, sparse, quantised or on several devices.
    """
    model = unwrap(model)
    check_model(model)
    check_loss(loss_fn)
    entry = Entry(model, call, loss_fn, autocast=ambient_autocast())
    with new_objects_alone():
        return build_program(entry, trace(entry, opaque=opaque))
