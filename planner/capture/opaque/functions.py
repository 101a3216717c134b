"""Plain functions that run as they are, as modules may.

A loss that a model calls (a matching by scipy, CTC with lengths) is often
all that a trace can't hold. Its name may be bound anywhere, so that it is
its code which is exchanged while the model is traced.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import numpy
import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.containers import has_tensor
from planner.capture.copies import copied
from planner.capture.opaque.call import is_constant, running_whole, state_names
from planner.garbage import all_objects

__all__ = ["Function", "functions_below", "stands_in"]

_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parents[2]
_COPIES: WeakKeyDictionary[FunctionType, FunctionType] = WeakKeyDictionary()
_STANDING: dict[str, Callable[..., Any]] = {}


class Function(nn.Module):
    """A function as a module without state; it runs the code it has now.

    Parameters
    ----------
    function : FunctionType
    owner : nn.Module, optional
        Of a method, whose calls are then meant without it. It runs on a
        copy that has no parameters and no buffers.
    """

    def __init__(self,
                 function: FunctionType,
                 owner: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        # No submodules: they are no state of it.
        self.__dict__["owner"] = owner
        self.__dict__["bare"] = None if owner is None else _bare(owner)
        self.run = FunctionType(function.__code__, function.__globals__,
                                function.__name__, function.__defaults__,
                                function.__closure__)
        self.run.__kwdefaults__ = function.__kwdefaults__
        _COPIES[self.run] = function

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Arrays among its results are tensors to the program."""
        if self.bare is not None:
            args = (self.bare, *args)
        return pytree.tree_map_only(numpy.ndarray, torch.from_numpy,
                                    self.run(*args, **kwargs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Function:
        return self

    def __reduce__(self) -> Any:
        """What tells it from others; it is never made anew from this."""
        return str, (f"{self.name}:{self.run.__code__.co_firstlineno}", ), \
            self.bare


def _bare(owner: nn.Module) -> nn.Module:
    """A copy without tensors, which can't be read from it then."""
    tables = [
        table for m in owner.modules() for table in (m._parameters, m._buffers)
    ]
    memo = {id(t): None for table in tables for t in table.values()}
    bare = copied(owner, {i: n for i, n in memo.items() if i != id(None)})
    for module in bare.modules():
        module._parameters.clear()
        module._buffers.clear()
    return bare


def functions_below(error: BaseException, module: nn.Module) -> list[Function]:
    """Functions that a module was calling when it failed, outermost first.

    Only those that are given all they work on: what a function finds on a
    module, or closes over, would get no gradient. A method may look at what
    else its module has, such as a config.
    """
    frames: list[FrameType] = []
    within = False
    step: TracebackType | None = error.__traceback__
    while step is not None:
        if _calls(step.tb_frame, module):
            within, frames = True, []
        elif within:
            frames.append(step.tb_frame)
        step = step.tb_next
    found = ((_function_of(f), _owner(f)) for f in frames if _is_given_all(f))
    return [
        Function(f, _traced_for(owner, module)) for f, owner in found
        if f is not None
    ]


def _traced_for(owner: nn.Module | None,
                module: nn.Module) -> nn.Module | None:
    """The module for which a trace calls a proxy."""
    return next((m for m in module.modules()
                 if owner is not None and m.__dict__ is owner.__dict__), owner)


def _calls(frame: FrameType, module: nn.Module) -> bool:
    """A trace may call a proxy, which shares its module's attributes."""
    owner = frame.f_locals.get("self")
    return (frame.f_code.co_name == "_call_impl"
            and isinstance(owner, nn.Module)
            and owner.__dict__ is module.__dict__)


def _is_given_all(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_freevars or code.co_name.startswith("<") or not _is_users(code):
        return False
    names = code.co_varnames[_owner(frame) is not None:_arguments(code)]
    leaves = pytree.tree_leaves([frame.f_locals.get(n) for n in names])
    return bool(leaves) and all(
        isinstance(x, torch.Tensor) or is_constant(x) for x in leaves)


def _owner(frame: FrameType) -> nn.Module | None:
    """The module whose method runs, unless that is its call.

    A call of one without parameters and buffers is a method like others.
    """
    code = frame.f_code
    first = frame.f_locals.get(
        code.co_varnames[0]) if code.co_argcount else None
    if not isinstance(first, nn.Module) or code.co_name in (
            "_call_impl", "_wrapped_call_impl", "__call__"):
        return None
    return None if code.co_name == "forward" and state_names(first) else first


def _arguments(code: CodeType) -> int:
    flags = inspect.CO_VARARGS, inspect.CO_VARKEYWORDS
    return (code.co_argcount + code.co_kwonlyargcount +
            sum(bool(code.co_flags & f) for f in flags))


def _is_users(code: CodeType) -> bool:
    """Of torch only what users call themselves."""
    file = Path(code.co_filename)
    if code.co_filename.startswith("<"):
        return False
    if file.is_relative_to(_TORCH):
        return file == _TORCH / "nn" / "functional.py"
    return not file.is_relative_to(_OURS)


def _function_of(frame: FrameType) -> FunctionType | None:
    with all_objects():
        referrers = gc.get_referrers(frame.f_code)
    holders = {
        id(f): f
        for f in (_COPIES.get(f, f) for f in referrers
                  if isinstance(f, FunctionType)) if f.__code__ is frame.f_code
    }
    if len(holders) != 1:
        return None
    held = (frame.f_globals.get(n) for n in frame.f_code.co_names)
    state = any(isinstance(x, nn.Module) or has_tensor(x) for x in held)
    return None if state else next(iter(holders.values()))


@contextlib.contextmanager
def stands_in(function: Function, call: Callable[..., Any]) -> Iterator[None]:
    """Let this thread's calls of the function be calls of `call`."""
    target, key = function.function, f"{function.name}:{id(function)}"
    thread = threading.get_ident()

    def chosen(*args: Any, **kwargs: Any) -> Any:
        own = threading.get_ident() == thread and not running_whole()
        if own and function.owner is not None:
            own = args[0].__dict__ is function.owner.__dict__
            args = args[1:] if own else args
        return (call if own else function.run)(*args, **kwargs)

    before = target.__code__, target.__defaults__, target.__kwdefaults__
    _STANDING[key] = chosen
    target.__code__ = _leads_to(key)
    target.__defaults__ = target.__kwdefaults__ = None
    try:
        yield
    finally:
        target.__code__, target.__defaults__, target.__kwdefaults__ = before
        del _STANDING[key]


def _leads_to(key: str) -> CodeType:
    """Code that needs no names of where it is put."""
    scope: dict[str, Any] = {}
    exec(
        "def stand_in(*args, **kwargs):\n"
        "    import sys\n"
        f"    found = sys.modules[{__name__!r}]._STANDING[{key!r}]\n"
        "    return found(*args, **kwargs)\n", scope)
    code = scope["stand_in"].__code__
    assert isinstance(code, CodeType)
    return code
