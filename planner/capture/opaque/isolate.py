"""The last rung: what no trace can hold becomes an operator.

The smallest module whose own call is refused is run as it is, under
ordinary autograd, by every rank; of a module only a function that it calls,
where that is given all it works on. Where that can't be, the module that
calls it is tried, up to the whole model.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn

from planner.capture.entry import Entry, note_of_left
from planner.capture.known_values import KnownValues
from planner.capture.long_loops import LongLoop
from planner.capture.nodes import strip_entry
from planner.capture.opaque.call import NotIsolated
from planner.capture.opaque.functions import Function, functions_below
from planner.capture.opaque.operator import OPAQUE
from planner.capture.opaque.replace import Opaque, replaced
from planner.capture.traced import Traced
from planner.ir.errors import CaptureError

__all__ = ["isolated"]

# Ranks may be threads of one process, and functions are patched meanwhile.
_ONE_AT_A_TIME = threading.RLock()

_ATTEMPTS = 64
_MODEL, _LOSS = "model", "loss_fn"
_FUNCTION = "the function "
_DEEP = 3


def isolated(entry: Entry, error: CaptureError,
             trace: Callable[[Entry], Traced]) -> Traced:
    """Trace with as few modules as possible run and not traced.

    Parameters
    ----------
    entry : Entry
    error : CaptureError
        Of the trace of everything.
    trace : callable
        Gives the entry's normalised graph, or raises CaptureError.

    Raises
    ------
    CaptureError
        The one that was given, with what hinders this way too.
    """
    with _ONE_AT_A_TIME:
        return _isolated(entry, error, trace)


def _isolated(entry: Entry, error: CaptureError,
              trace: Callable[[Entry], Traced]) -> Traced:
    _name_the_loss(entry)
    known = entry.known = KnownValues.of(entry.call.tensors, entry)
    chosen: dict[str, Opaque] = {}
    functions: dict[str, Function] = {}
    reasons: dict[str, str] = {}
    name: str | None = None
    blamed: frozenset[int] = frozenset()
    latest = error
    for attempt in range(_ATTEMPTS):
        try:
            if not attempt and isinstance(error, LongLoop):
                # No values that are known now make it any shorter.
                raise error
            with replaced(chosen):
                traced = trace(entry)
        except CaptureError as again:
            latest = again
        else:
            if known.forget_written(traced.mutations):
                continue
            return dataclasses.replace(
                traced,
                notes=(*traced.notes, *map(_fixed, entry.fixed_paths),
                       *_notes(entry, _left(chosen, traced), reasons)))
        if not _refused(latest):
            functions = _functions_at_fault(entry, latest)
            blamed = known.blamed(_chain(latest))
        elif name in functions:
            del chosen[name]
        name = _next(entry, latest, reasons, functions)
        if name is None:
            break
        if name not in functions and not blamed <= known.allowed:
            # Rather a program for these values than layers that no axis
            # divides.
            known.allowed |= blamed
            continue
        reasons[name] = _reason(latest, name, reasons)
        if name in functions:
            chosen[name] = Opaque(functions[name],
                                  name,
                                  whole=False,
                                  examples_of=known.examples)
        else:
            chosen = _with(entry, chosen, name, reasons)
    raise _hindered(error, latest, entry.call.tensors) from error


class _Loss(nn.Module):
    """A loss function under a name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def _reason(error: CaptureError, name: str, reasons: Mapping[str, str]) -> str:
    """Why a module is not traced; what is inside of it may say so."""
    within = [
        r for n, r in reasons.items() if n.startswith((f"{name}.", _FUNCTION))
    ]
    return within[-1] if within and _refused(error) else str(error)


def _refused(error: CaptureError) -> bool:
    """Whether it is that something can't be run apart."""
    return any(isinstance(e, NotIsolated) for e in _chain(error))


def _name_the_loss(entry: Entry) -> None:
    if entry.loss_fn is not None and not isinstance(entry.loss_fn, nn.Module):
        entry.loss_fn = _Loss(entry.loss_fn)


def _next(entry: Entry, error: CaptureError, tried: Mapping[str, str],
          functions: Mapping[str, Function]) -> str | None:
    """The smallest at fault that was not tried yet."""
    modules = {**dict(entry.named_modules()), **functions}
    named = [*functions, *_at_fault(entry, error), _MODEL, _LOSS]
    if error.module_path is not None:
        named.insert(0, f"{_MODEL}.{error.module_path}".rstrip("."))
    return next((n for n in named if n in modules and n not in tried), None)


def _at_fault(entry: Entry, error: BaseException) -> list[str]:
    """Modules that were being called when it failed, innermost first.

    What was tried last knows best, and stands in the error's context.
    """
    # A trace may call proxies, which share their module's attributes.
    names = {id(m.__dict__): n for n, m in entry.named_modules() if n}
    for each in _chain(error):
        found = [names[i] for i in _called(each) if i in names]
        if found:
            return found[::-1]
        if _called_in(each, entry.loss_fn):
            return [_LOSS]
    return []


def _functions_at_fault(entry: Entry,
                        error: CaptureError) -> dict[str, Function]:
    """What the innermost module was calling, outermost first."""
    modules = dict(entry.named_modules())
    for name in _at_fault(entry, error)[:1]:
        if name == _LOSS:
            break
        for each in _chain(error):
            found = functions_below(each, modules[name])
            if found:
                return {_called_so(f): f for f in found[:_DEEP]}
    return {}


def _called_so(item: Function) -> str:
    code = item.run.__code__
    return (f"{_FUNCTION}{item.function.__qualname__} ({code.co_filename}:"
            f"{code.co_firstlineno})")


def _called_in(error: BaseException, loss: nn.Module | None) -> bool:
    """Whether it failed in the loss, when it had no name yet."""
    code = getattr(getattr(loss, "function", None), "__code__", None)
    step = error.__traceback__
    while step is not None:
        if code is not None and step.tb_frame.f_code is code:
            return True
        step = step.tb_next
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [
            e for e in (one.__context__, one.__cause__) if e is not None
        ]


def _called(error: BaseException) -> Iterator[int]:
    """The ids of the attributes of called modules, outermost first."""
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "_call_impl" and isinstance(
                owner, nn.Module):
            yield id(owner.__dict__)
        step = step.tb_next


def _with(entry: Entry, chosen: Mapping[str, Opaque], name: str,
          reasons: Mapping[str, str]) -> dict[str, Opaque]:
    """Those that are left, and the new one with those like it."""
    modules = dict(entry.named_modules())
    first = modules[name]
    again = any(
        type(modules[n]) is type(first) for n in reasons
        if n in modules and n != name)
    alike = [name] + [
        n for n, m in modules.items() if type(m) is type(first)
        and m is not first and (again or _settings(m) == _settings(first))
        and not f"{name}.".startswith(f"{n}.") and name not in (_MODEL, _LOSS)
    ]
    kept = dict(chosen)
    for other in alike:
        within = any(other.startswith(f"{n}.") for n in (*kept, *alike))
        if within and other != name:
            continue
        kept = {n: o for n, o in kept.items() if not n.startswith(f"{other}.")}
        if other not in kept:
            kept[other] = Opaque(modules[other],
                                 _shown(entry, other),
                                 whole=other == _MODEL,
                                 examples=entry.call.tensors)
    # Those that were like one which is inside of another now are not at fault.
    kinds = {type(o.module) for n, o in kept.items() if n in reasons}
    return {
        n: o
        for n, o in kept.items() if n in reasons or type(o.module) in kinds
    }


def _settings(module: nn.Module) -> dict[str, Any]:
    return {
        n: v
        for n, v in vars(module).items()
        if isinstance(v, (bool, int, float, str, FunctionType))
    }


def _shown(entry: Entry, name: str) -> str:
    if name == _LOSS:
        return "the loss function"
    return strip_entry(name) or f"the model ({type(entry.model).__name__})"


def _left(chosen: Mapping[str, Opaque], traced: Traced) -> dict[str, Opaque]:
    """Those on whose results anything depends."""
    keys = {n.args[2] for n in traced.graph.nodes if n.target is OPAQUE}
    return {n: item for n, item in chosen.items() if item.keys & keys}


def _notes(entry: Entry, chosen: Mapping[str, Opaque],
           reasons: Mapping[str, str]) -> Iterator[str]:
    """One for each kind of module: what, why, and what it costs."""
    kinds: dict[Any, list[str]] = {}
    for name, item in chosen.items():
        module = item.module
        kind = name if isinstance(module, Function) else type(module)
        kinds.setdefault(kind, []).append(name)
    for names in kinds.values():
        reason = next(reasons[n] for n in names if n in reasons)
        reason = reason.removeprefix(
            f"cannot capture {type(entry.model).__name__}: ")
        items = [chosen[n] for n in names]
        where = items[0].path
        more = f" and {len(items) - 1} like it" if len(items) > 1 else ""
        flops = sum(i.work.flops for i in items)
        tried = (", whose shapes were found by running it on made-up numbers"
                 if any(i.real for i in items) else "")
        for item in items:
            yield from (note_of_left(entry.model, n)
                        for n in item.settled.left)
        yield (f"{where}{more} can't be captured ({reason}){tried}: it runs "
               "whole, as it is written, on every rank of every axis, and "
               "once more in the backward; no axis divides its "
               f"{max(flops, 0):.1e} flops, its memory or its inputs, which "
               "are gathered; forbid(\"opaque\") makes this an error")


def _fixed(path: str) -> str:
    return (f"shapes follow from the values of {path}: other values of it "
            "are captured again, which takes seconds for each; let batches "
            "have few of them (images of few sizes)")


def _hindered(error: CaptureError, latest: CaptureError,
              tensors: Sequence[torch.Tensor]) -> CaptureError:
    """The first error, and what the last attempt said besides."""
    reason = str(latest)
    text = str(error)
    if latest is not error and reason != text:
        text += f" (nor can it be run uncaptured: {reason})"
    if any(t.is_meta and not t.is_floating_point() for t in tensors):
        text += ("; where shapes follow from the values of an input, example "
                 "inputs must have values: they are on meta")
    return CaptureError(text, module_path=error.module_path)
