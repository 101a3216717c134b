"""The ways of tracing a model, tried one after the other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.capture.attributes import Attributes
from planner.capture.entry import Entry
from planner.capture.explain import explained
from planner.capture.export import trace_by_export
from planner.capture.fakes import fake_like
from planner.capture.gradients import NoForm
from planner.capture.make_graph import trace_by_make_fx
from planner.capture.normalize import drop_unused, normalize
from planner.capture.opaque.call import NotIsolated
from planner.capture.opaque.isolate import isolated
from planner.capture.repeats.layers import Learnt, repeated_layers
from planner.capture.repeats.unroll import NotAlike, unrolled
from planner.capture.surroundings import prepared
from planner.capture.traced import Traced
from planner.ir.errors import CaptureError

__all__ = ["trace"]

_SHORT_ATTEMPTS = 3
_Tensors = tuple[torch.Tensor, ...]


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
    way = functools.partial(_traced, opaque=opaque, learnt=Learnt())
    try:
        return way(entry)
    except CaptureError as error:
        if not opaque or isinstance(error, NoForm):
            raise
        return isolated(entry, error, way)


def _traced(entry: Entry, *, opaque: bool, learnt: Learnt) -> Traced:
    traced = _first_trace(entry, learnt.for_another(), opaque=opaque)
    if entry.output.drawn:
        _refuse_draws(entry)
    return traced


def _refuse_draws(entry: Entry) -> None:
    """Trace again, to the function that draws.

    There is none where another thread of the process drew meanwhile.

    Raises
    ------
    CaptureError
    """
    entry.refuse_draws = True
    try:
        _attempt(entry,
                 lambda fakes: trace_by_export(entry, fakes),
                 opaque=True)
    finally:
        entry.refuse_draws = False


def _first_trace(entry: Entry, learnt: Learnt, *, opaque: bool) -> Traced:
    for _ in range(_SHORT_ATTEMPTS):
        known = learnt.amount
        try:
            return _attempt(entry,
                            lambda fakes: _short(entry, fakes, learnt),
                            opaque=opaque)
        except NotAlike:
            if not learnt.reproach:
                break
            if learnt.amount > known:
                continue
            if not learnt.withhold:
                break
            learnt.withhold = False
    try:
        return _attempt(entry,
                        lambda fakes: trace_by_export(entry, fakes),
                        opaque=opaque)
    except CaptureError as error:
        learnt.refusals.add(_sign(error.__cause__ or error))
        raise


def _sign(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _attempt(entry: Entry, export: Callable[[_Tensors], Traced], *,
             opaque: bool) -> Traced:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fakes = tuple(
        fake_like(t, mode).requires_grad_(t.requires_grad)
        for t in entry.call.tensors)
    with prepared(entry, mode, entry.tells) as notes:
        attributes = Attributes(entry)
        try:
            traced = export(fakes)
        except (CaptureError, NotAlike):
            raise
        except Exception as error:
            # Export leaves copies of what hangs on modules.
            attributes.restore()
            traced = _second_try(entry, fakes, error)
    try:
        parts = normalize(traced, opaque=opaque, inputs=entry.call.tensors)
    except NotIsolated:
        parts = normalize(traced, opaque=False, inputs=())
    return dataclasses.replace(traced,
                               notes=(*traced.notes, *notes,
                                      *entry.output.notes, *parts))


def _short(entry: Entry, fakes: _Tensors, learnt: Learnt) -> Traced:
    """Export where layers that are alike are traced once."""
    with repeated_layers(entry, learnt) as repeats:
        try:
            traced = trace_by_export(entry, fakes)
        except Exception as error:
            learnt.reproach = not repeats.in_model
            if repeats.in_model and _sign(error) in learnt.refusals:
                raise
            if repeats.risky:
                raise NotAlike("the model can't be traced so") from error
            raise
    drop_unused(traced.graph)
    return unrolled(
        traced,
        repeats.withheld.like,
        writing=repeats.writing,
        buffers=[
            name for name, _ in entry.named_buffers(remove_duplicate=False)
        ])


def _second_try(entry: Entry, fakes: tuple[torch.Tensor, ...],
                first: Exception) -> Traced:
    try:
        return trace_by_make_fx(entry, fakes)
    except Exception as second:
        raise explained(entry.model, first, second=second) from first
