"""The ways of tracing a model, tried one after the other."""

from __future__ import annotations

import dataclasses

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.capture.entry import Entry
from planner.capture.explain import explained
from planner.capture.export import trace_by_export
from planner.capture.make_graph import trace_by_make_fx
from planner.capture.normalize import normalize
from planner.capture.opaque.isolate import isolated
from planner.capture.surroundings import fake_like, prepared
from planner.capture.traced import Traced
from planner.ir.errors import CaptureError

__all__ = ["trace"]


def trace(entry: Entry, *, opaque: bool) -> Traced:
    """Climb down the ladder, to a normalised graph.

    ``torch.export``; then ``make_fx``; then both again with the modules
    that they refuse run as they are; then the error.

    Parameters
    ----------
    entry : Entry
    opaque : bool
        Whether modules may be run as they are.

    Raises
    ------
    CaptureError
    """
    try:
        return _traced(entry)
    except CaptureError as error:
        if not opaque:
            raise
        return isolated(entry, error, _traced)


def _traced(entry: Entry) -> Traced:
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
    traced = dataclasses.replace(traced,
                                 notes=(*traced.notes, *notes,
                                        *entry.output.notes))
    normalize(traced)
    return traced


def _second_try(entry: Entry, fakes: tuple[torch.Tensor, ...],
                first: Exception) -> Traced:
    try:
        return trace_by_make_fx(entry, fakes)
    except Exception as second:
        raise explained(entry.model, first, second=second) from first
