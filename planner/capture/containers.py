"""Lists, dicts and objects that hang on modules, which a call may fill."""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from types import (CodeType, FunctionType, MappingProxyType, MethodType,
                   ModuleType)
from typing import Any

import torch
from torch import nn

__all__ = [
    "Container", "classes_of", "containers", "has_tensor", "holds_same",
    "is_same", "items", "members", "refill", "settings"
]

Container = list[Any] | dict[Any, Any] | set[Any] | deque[Any]

_Containers = Iterator[tuple[str, Container]]
_KINDS = frozenset((list, dict, set, deque, OrderedDict, defaultdict))
"""Themselves: a class made from one may do anything when it is read."""

_CLOSED = (str, bytes, int, float, complex, torch.Tensor, type, ModuleType,
           nn.Module, type(None))
_LIBRARIES = ("torch", "numpy", "builtins", "functools", "logging",
              "threading", "planner", "passes", "scaletorch")
_NAMED = (dict, MappingProxyType)
_TRACED = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)
_TORCHS = frozenset(vars(nn.Module()))
_ROOTS = ("_parameters", "_buffers", "_modules")


def containers(model: nn.Module, given: Any = ()) -> _Containers:
    """All that a call may put something into, with where it is.

    Of plain objects their attributes. Also what belongs to a module's class,
    and what its methods, and functions that they call, know by a global name.

    Parameters
    ----------
    model : nn.Module
    given : object, optional
        What it is called with, which it may fill as well.

    Yields
    ------
    path, container
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        inside = f"{path}." if path else ""
        for name, value in list(vars(module).items()):
            if type(value) in _KINDS and (not value or name in _ROOTS):
                # Most are empty tables of torch's, as deep as they go.
                if id(value) not in seen:
                    seen.add(id(value))
                    yield inside + name, value
            elif not isinstance(value, _CLOSED):
                yield from _within(inside + name, value, seen)
    yield from _within("its arguments", given, seen)
    for path, value in _beside(classes_of(model)):
        yield from _within(path, value, seen)


def classes_of(model: nn.Module) -> list[type]:
    """The classes of a model's modules and those that they are made from,
    but for libraries'."""
    kinds = {type(m): None for m in model.modules()}
    every = dict.fromkeys(c for kind in kinds for c in kind.__mro__)
    return [c for c in every if not _is_library(c)]


def settings(model: nn.Module) -> list[Container]:
    """Those in which a model's settings may be: not what torch keeps there.

    Also not what its classes hold.
    """
    seen: set[int] = set()
    return [
        container for module in model.modules()
        for name, value in list(vars(module).items())
        if name not in _TORCHS and not isinstance(value, _CLOSED)
        for _, container in _within(name, value, seen)
    ]


def has_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or holds one however deep.

    Also a number that a trace has of a tensor.
    """
    if isinstance(value, _TRACED):
        return True
    return any(
        isinstance(x, _TRACED) for _, container in _within("", value, set())
        for x in members(container))


def members(
    container: Container | tuple[Any, ...] | MappingProxyType[str, Any]
) -> Iterable[Any]:
    """What a container holds, or a class, without keys."""
    return (container.values()
            if isinstance(container, _NAMED) else list(container))


def items(
    container: Container | tuple[Any, ...] | MappingProxyType[str, Any]
) -> Iterable[tuple[Any, Any]]:
    """What a container holds, or a class, with keys or places."""
    return (container.items()
            if isinstance(container, _NAMED) else enumerate(container))


def refill(container: Container, before: Container | tuple[()]) -> None:
    """Let it hold what it held before."""
    if holds_same(container, before):
        return
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(before)
    else:
        container.extend(before)


def holds_same(one: Container, other: Container | tuple[()]) -> bool:
    """Whether two containers hold the same, in the same order."""
    if not one and not other:
        return True
    if isinstance(one, dict) and isinstance(other, dict) \
            and list(one) != list(other):
        return False
    return len(one) == len(other) and all(
        map(is_same, members(one), members(other)))


def is_same(one: Any, other: Any) -> bool:
    """Whether two are one object, or equal numbers or names."""
    return one is other or (type(one) is type(other)
                            and isinstance(one,
                                           (str, int, float)) and one == other)


def _within(path: str, value: Any, seen: set[int]) -> _Containers:
    waiting = [(path, value)]
    while waiting:
        path, value = waiting.pop()
        held = value if isinstance(value, tuple) else _of(value)
        if held is None or id(held) in seen:
            continue
        if not isinstance(held, tuple):
            seen.add(id(held))
            yield path, held
        if path.rpartition(".")[2] not in _ROOTS:
            waiting += [(f"{path}.{key}", x) for key, x in list(items(held))
                        if not isinstance(x, _CLOSED)]


def _of(value: Any) -> Container | None:
    """The container that a value is, or its attributes."""
    if type(value) in _KINDS:
        container: Container = value
        return container
    if isinstance(value, MethodType):
        value = value.__self__
    if isinstance(value, _CLOSED) or _is_library(type(value)):
        return None
    attributes = getattr(value, "__dict__", None)
    return attributes if isinstance(attributes, dict) else None


def _is_library(kind: type | FunctionType) -> bool:
    """Whether it, or its objects, are no business of a model's author."""
    return (kind.__module__ or "").partition(".")[0] in _LIBRARIES


def _beside(kinds: Iterable[type]) -> Iterator[tuple[str, Any]]:
    for kind in kinds:
        for name, value in list(vars(kind).items()):
            if not name.startswith("__"):
                yield f"{kind.__qualname__}.{name}", value
        for path, known, name in _global_names(kind):
            yield path, known.get(name)


@functools.lru_cache(maxsize=1024)
def _global_names(kind: type) -> tuple[tuple[str, dict[str, Any], str], ...]:
    """Those that its methods mention: path, the globals, and the name."""
    waiting = [f for f in vars(kind).values() if isinstance(f, FunctionType)]
    seen: set[CodeType] = set()
    found: dict[str, tuple[str, dict[str, Any], str]] = {}
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if not isinstance(function, FunctionType) or _is_library(function) \
                or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        for name in _mentioned(function.__code__):
            value = function.__globals__.get(name)
            path = f"{function.__module__}.{name}"
            if isinstance(value, FunctionType):
                waiting.append(value)
            elif name in function.__globals__:
                found[path] = path, function.__globals__, name
    return tuple(found.values())


def _mentioned(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _mentioned(constant)
