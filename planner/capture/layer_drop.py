"""LayerDrop: a loop over layers that leaves some out, by chance.

``if torch.rand([]) < p: continue`` before ``x = layer(x)`` asks for a drawn
value, which a trace does not know. Both sides are computed: the layer runs
and its result is ``torch.where(left_out, x, layer(x))``. Whether it runs
does not depend on `x`, so that its derivatives there are as finite as they
are when it does.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from planner.capture.guards import assign, evaluated
from planner.ir.errors import CaptureError

__all__ = ["kept_layer"]

_DRAWS = ("rand", "rand_like", "uniform", "uniform_", "random", "bernoulli")


def kept_layer(frame: FrameType, statement: ast.If,
               loop: ast.For) -> bool | None:
    """Let a layer run that a drawn value may leave out.

    Parameters
    ----------
    frame : FrameType
        That asks for the truth of a tensor.
    statement : ast.If
        In which it asks.
    loop : ast.For
        Around it.

    Returns
    -------
    bool or None
        What the statement's test must be for the layer to run, whose result
        is then merged with what it is given; None where this is something
        else.
    """
    if statement.orelse or not _is_drawn(statement.test, loop):
        return None
    for name in _names(loop.target):
        layer = frame.f_locals.get(name)
        runs = _when_it_runs(statement, loop, name, frame.f_locals)
        if not isinstance(layer, nn.Module) or runs is None:
            continue
        test = evaluated(statement.test, frame, dict(frame.f_locals))
        if not isinstance(test, torch.Tensor) or test.numel() != 1:
            return None
        test = test.reshape(()).bool()
        left_out = torch.logical_not(test) if runs else test
        assign(
            frame, {
                name: functools.partial(_merged, layer, left_out),
                **_flags(statement, loop, frame, runs=runs)
            })
        return runs
    return None


def _merged(layer: nn.Module, left_out: torch.Tensor, x: torch.Tensor, *args:
            Any, **kwargs: Any) -> Any:
    """Of several results the first is the layer's; nothing stands for others.
    """
    found = layer(x, *args, **kwargs)
    y = found[0] if isinstance(found, tuple) else found
    if not isinstance(y, torch.Tensor) or (y.shape, y.dtype) != (x.shape,
                                                                 x.dtype):
        raise CaptureError(
            f"a {type(layer).__name__} that is left out by chance does not "
            "return what it is given, so that shapes depend on drawn values")
    merged = torch.where(left_out, x, y)
    if isinstance(found, tuple):
        return (merged, *(None for _ in found[1:]))
    return merged


def _flags(statement: ast.If, loop: ast.For, frame: FrameType, *,
           runs: bool) -> dict[str, bool]:
    """What a name in the test is where the layer runs.

    For later conditions, if nothing else reads it.
    """
    held = {
        n
        for n in _names(statement.test)
        if isinstance(frame.f_locals.get(n), torch.Tensor)
    }
    conditions = [n.test for n in ast.walk(loop) if isinstance(n, ast.If)]
    for name in held if len(held) == 1 else ():
        if _reads(loop, name) != sum(_reads(t, name) for t in conditions):
            break
        for value in (False, True):
            scope = {**frame.f_locals, name: value}
            if bool(evaluated(statement.test, frame, scope)) is runs:
                return {name: value}
    return {}


def _reads(tree: ast.AST, name: str) -> int:
    return sum(
        isinstance(n, ast.Name) and n.id == name
        and isinstance(n.ctx, ast.Load) for n in ast.walk(tree))


def _is_drawn(test: ast.expr, loop: ast.For) -> bool:
    """Whether something in the test is made by a call that draws."""
    waiting: list[ast.AST] = [test]
    seen: set[str] = set()
    while waiting:
        for node in ast.walk(waiting.pop()):
            if isinstance(node, ast.Call) and _called(node) in _DRAWS:
                return True
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                waiting += [
                    n.value for n in ast.walk(loop)
                    if isinstance(n, ast.Assign) and any(node.id in _names(t)
                                                         for t in n.targets)
                ]
    return False


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(
        node.func, "id", "")


def _names(target: ast.expr) -> list[str]:
    return [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]


def _when_it_runs(statement: ast.If, loop: ast.For, name: str,
                  scope: Mapping[str, Any]) -> bool | None:
    """With which answer the layer runs; with the other nothing does."""
    body = statement.body
    if _only_runs(body, name, scope):
        return True
    if len(body) != 1:
        return None
    rest = _rest(loop.body, statement)
    if isinstance(body[0], ast.Continue):
        return False if _only_runs(rest, name, scope) else None
    flag = _flag(body[0])
    unless = (s for s in rest or () if isinstance(s, ast.If) and not s.orelse)
    return False if flag and any(
        _is_not(s.test, flag) and _only_runs(s.body, name, scope)
        for s in unless) else None


def _only_runs(steps: list[ast.stmt] | None, name: str,
               scope: Mapping[str, Any]) -> bool:
    """``x = layer(x, ...)``, or the first of its results, and no more."""
    match steps:
        case [
            ast.Assign(targets=[ast.Name(id=target)],
                       value=ast.Call(func=ast.Name(id=called),
                                      args=[ast.Name(id=first), *_])), *rest
        ] if called == name:
            if target != first:
                if not rest or not _is_first(rest.pop(0), first, target):
                    return False
            return all(_is_idle(s, scope) for s in rest)
    return False


def _is_first(step: ast.stmt, name: str, several: str) -> bool:
    """``name = several[0]``"""
    match step:
        case ast.Assign(targets=[ast.Name(id=target)],
                        value=ast.Subscript(value=ast.Name(id=source),
                                            slice=ast.Constant(value=0))):
            return (target, source) == (name, several)
    return False


def _is_idle(step: ast.stmt, scope: Mapping[str, Any]) -> bool:
    """``if flag:`` where the flag is down, as for what is not asked for.

    Also ``if more is not None:`` where it is None.
    """
    match step:
        case ast.If(test=ast.Compare(left=ast.Name(id=name),
                                     ops=[ast.IsNot()],
                                     comparators=[ast.Constant(value=None)]),
                    orelse=[]):
            return scope.get(name, True) is None
        case ast.If(test=ast.Name(id=name), orelse=[]):
            value = scope.get(name, True)
            return value is False or value is None
    return False


def _rest(steps: list[ast.stmt], statement: ast.If) -> list[ast.stmt] | None:
    """What comes after a statement, also where it stands in a condition."""
    for number, step in enumerate(steps):
        if step is statement:
            return steps[number + 1:]
        if isinstance(step, ast.If):
            inner = _rest(step.body, statement)
            if inner is not None:
                return [*inner, *steps[number + 1:]]
    return None


def _flag(step: ast.stmt) -> str:
    """The name in ``name = True``."""
    match step:
        case ast.Assign(targets=[ast.Name(id=name)],
                        value=ast.Constant(value=True)):
            return name
    return ""


def _is_not(test: ast.expr, flag: str) -> bool:
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id=name)):
            return name == flag
    return False
