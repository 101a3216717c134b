"""From a model to a :class:`planner.ir.program.Program`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.capture.builder import build_program
from planner.capture.entry import (Call, Entry, bind_inputs,
                                   default_example_inputs, split_example)
from planner.capture.explain import explained
from planner.capture.export import trace_by_export
from planner.capture.make_graph import trace_by_make_fx
from planner.capture.normalize import normalize
from planner.capture.refuse import check_loss, check_model, unwrap
from planner.capture.surroundings import fake_like, prepared
from planner.capture.traced import Traced
from planner.ir.errors import CaptureError
from planner.ir.program import Program

__all__ = ["capture", "capture_call"]


def capture(model: nn.Module,
            example_inputs: Any = None,
            *,
            loss_fn: Callable[..., Any] | None = None) -> Program:
    """Capture a model's forward training program, cut into blocks.

    Two ways are tried: ``torch.export``, which knows module paths, and, for
    what it refuses, ``make_fx``, whose program is one block (`Program.notes`
    says so). The error gives both reasons where they differ.

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
                        loss_fn=loss_fn)


def capture_call(model: nn.Module,
                 call: Call,
                 *,
                 loss_fn: Callable[..., Any] | None = None) -> Program:
    """Capture for a call whose inputs are already bound.

    A ``torch.autocast`` that is active around this is part of the program.
    """
    model = unwrap(model)
    check_model(model)
    check_loss(loss_fn)
    entry = Entry(model, call, loss_fn, autocast=_ambient_autocast())
    traced = _trace(entry)
    normalize(traced)
    return build_program(entry, traced)


def _ambient_autocast() -> torch.dtype | None:
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None


def _trace(entry: Entry) -> Traced:
    """Climb down the ladder: export, then make_fx, then the error."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = tuple(
        fake_like(t, mode).requires_grad_(t.requires_grad)
        for t in entry.call.tensors)
    with prepared(entry, mode) as notes:
        try:
            traced = trace_by_export(entry, fakes)
        except CaptureError:
            raise
        except Exception as error:
            traced = _second_try(entry, fakes, error)
    return dataclasses.replace(traced,
                               notes=(*traced.notes, *notes,
                                      *entry.output.notes))


def _second_try(entry: Entry, fakes: tuple[torch.Tensor, ...],
                first: Exception) -> Traced:
    try:
        return trace_by_make_fx(entry, fakes)
    except Exception as second:
        raise explained(entry.model, first, second=second) from first
