"""Let a model that runs as it is draw what its captured program draws.

Parts that are not captured draw from generators that are not torch's under
a seed of each call. Where draws shall be steady, that seed is the same for
all, and an eager run is equal if the same parts begin under it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from torch import nn

from planner.capture.opaque.call import OpaqueCall
from planner.capture.opaque.functions import Function, stands_in
from planner.capture.opaque.operator import OPAQUE, opaque_call
from planner.generators import generators_of, seeded_all
from planner.ir.program import Program
from planner.ir.values import calls_of
from planner.steady import STEADY

__all__ = ["steady_parts"]


@contextlib.contextmanager
def steady_parts(model: nn.Module, program: Program) -> Iterator[None]:
    """Seed each part of a model that a program of it runs as it is.

    Parameters
    ----------
    model : nn.Module
        Which is run meanwhile.
    program : Program
        That was captured from it.
    """
    parts = [c.settled.module for c in _calls(program) if c.draws]
    functions = {
        f
        for f in (getattr(p, "function", None) for p in parts)
        if isinstance(f, FunctionType)
    }
    kinds = tuple({type(p) for p in parts} - {Function})
    with contextlib.ExitStack() as stack:
        for function in functions:
            stack.enter_context(_function(Function(function)))
        for module in _outermost(model, kinds):
            stack.enter_context(_module(module))
        yield


def _calls(program: Program) -> Iterator[OpaqueCall]:
    for cls in program.classes.values():
        for node in calls_of(cls.graph):
            if node.target is OPAQUE:
                yield opaque_call(node.args[2])


def _outermost(module: nn.Module, kinds: tuple[type, ...]) -> Iterator[Any]:
    if isinstance(module, kinds):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, kinds)


def _seeding(module: nn.Module, call: Callable[..., Any]) -> Any:
    generators = generators_of(module)

    @functools.wraps(call)
    def seeded(*args: Any, **kwargs: Any) -> Any:
        with seeded_all(generators, STEADY):
            return call(*args, **kwargs)

    return seeded


def _function(function: Function) -> contextlib.AbstractContextManager[None]:
    return stands_in(function, _seeding(function, function.run))


@contextlib.contextmanager
def _module(module: nn.Module) -> Iterator[None]:
    module.__dict__["forward"] = _seeding(module, module.forward)
    try:
        yield
    finally:
        del module.__dict__["forward"]
