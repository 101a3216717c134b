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
        runs = _when_it_runs(statement, loop, name)
        if not isinstance(layer, nn.Module) or runs is None:
            continue
        test = evaluated(statement.test, frame, dict(frame.f_locals))
        if not isinstance(test, torch.Tensor) or test.numel() != 1:
            return None
        test = test.reshape(()).bool()
        left_out = torch.logical_not(test) if runs else test
        assign(frame, {name: functools.partial(_merged, layer, left_out)})
        return runs
    return None


def _merged(layer: nn.Module, left_out: torch.Tensor, x: torch.Tensor, *args:
            Any, **kwargs: Any) -> torch.Tensor:
    y = layer(x, *args, **kwargs)
    if not isinstance(y, torch.Tensor) or (y.shape, y.dtype) != (x.shape,
                                                                 x.dtype):
        raise CaptureError(
            f"a {type(layer).__name__} that is left out by chance does not "
            "return what it is given, so that shapes depend on drawn values")
    return torch.where(left_out, x, y)


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


def _when_it_runs(statement: ast.If, loop: ast.For, name: str) -> bool | None:
    """With which answer the layer runs; with the other nothing does."""
    body = statement.body
    if _only_runs(body, name):
        return True
    if len(body) != 1:
        return None
    if isinstance(body[0], ast.Continue):
        return False if _only_runs(_rest(loop.body, statement), name) else None
    flag = _flag(body[0])
    unless = (s for s in _rest(loop.body, statement) or ()
              if isinstance(s, ast.If) and not s.orelse)
    return False if flag and any(
        _is_not(s.test, flag) and _only_runs(s.body, name)
        for s in unless) else None


def _only_runs(steps: list[ast.stmt] | None, name: str) -> bool:
    """``x = layer(x, ...)`` and nothing else."""
    match steps:
        case [
            ast.Assign(targets=[ast.Name(id=target)],
                       value=ast.Call(func=ast.Name(id=called),
                                      args=[ast.Name(id=first), *_]))
        ]:
            return called == name and first == target
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
