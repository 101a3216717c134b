"""Draws on which nothing depends.

Layers that may be left out by chance draw ``p = random.uniform(0, 1)`` also
where their chance is zero or the model does not train: ``if self.training
and p < self.layerdrop``. No number of that range makes a difference there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from planner.capture.guards import evaluated
from planner.capture.statements import innermost

__all__ = ["is_idle"]

_BETWEEN_0_AND_1: dict[str, tuple[Any, ...]] = {
    "random": (),
    "uniform": (0, 1)
}


def is_idle(frame: FrameType, line: int) -> bool:
    """Whether a draw makes no difference.

    Parameters
    ----------
    frame : FrameType
        Of the function that drew.
    line : int
        Where; of the form ``p = random.random()``, or ``uniform(0, 1)``.

    Returns
    -------
    bool
        Whether all that reads ``p`` compares it with a bound that is not
        between 0 and 1, or comes after what is false before it.
    """
    file = frame.f_code.co_filename
    name = _drawn(innermost(file, line))
    function = innermost(file, line, ast.FunctionDef)
    if name is None or function is None:
        return False
    decided = set(map(id, _decided(function, name, frame)))
    return all(
        id(n) in decided for n in ast.walk(function)
        if isinstance(n, ast.Name) and n.id == name
        and not isinstance(n.ctx, ast.Store))


def _drawn(statement: ast.stmt | None) -> str | None:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)],
                        value=ast.Call(
                            func=ast.Attribute(attr=called),
                            args=args,
                            keywords=[])) if called in _BETWEEN_0_AND_1:
            given = tuple(a.value if isinstance(a, ast.Constant) else None
                          for a in args)
            return name if given == _BETWEEN_0_AND_1[called] else None
    return None


def _decided(function: ast.stmt, name: str,
             frame: FrameType) -> Iterator[ast.Name]:
    """Where the name is read and its value does not matter."""
    for node in ast.walk(function):
        match node:
            case ast.Compare(left=ast.Name(id=read) as found,
                             ops=[ast.Lt() | ast.Gt() | ast.LtE() | ast.GtE()],
                             comparators=[bound]) if read == name:
                if _holds(bound, frame, lambda x: x <= 0 or x > 1):
                    yield found
            case ast.BoolOp(op=ast.And(), values=[first, *rest]):
                if _holds(first, frame, lambda x: not x):
                    yield from _names(rest)
            case ast.BoolOp(op=ast.Or(), values=[first, *rest]):
                if _holds(first, frame, bool):
                    yield from _names(rest)


def _names(nodes: list[ast.expr]) -> Iterator[ast.Name]:
    return (n for node in nodes for n in ast.walk(node)
            if isinstance(n, ast.Name))


def _holds(node: ast.expr, frame: FrameType, test: Callable[[Any],
                                                            bool]) -> bool:
    """Whether a flag or number of the module's fulfils something."""
    plain = (ast.Name, ast.Attribute, ast.Constant, ast.UnaryOp, ast.Not,
             ast.USub, ast.expr_context)
    if not all(isinstance(n, plain) for n in ast.walk(node)):
        return False
    value = evaluated(node, frame, dict(frame.f_locals))
    return isinstance(value, (bool, int, float)) and test(value)
