"""Branches on values that only replace a value: both sides are computed.

``if not torch.isfinite(x).all(): x = torch.clamp(x, ...)`` asks for the
value of a tensor, which a trace does not know. What such a statement does
is a ``torch.where`` of what it assigns and what was there before; also of
what it writes in places of a tensor without gradients
(``if p < 1: mask[torch.rand(n) > p] = 1``).
"""

from __future__ import annotations

import ast
import ctypes
import functools
from types import FrameType
from typing import Any

import torch

__all__ = ["assign", "evaluated", "merged_branch"]

_SAFE = frozenset(
    ("clamp", "clip", "clamp_min", "clamp_max", "nan_to_num", "masked_fill",
     "where", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like",
     "new_zeros", "new_ones", "new_full", "tensor", "detach", "finfo", "to",
     "float", "sum", "mean", "rand", "rand_like"))
"""Calls whose derivative is finite wherever they are computed."""

_SAFE_NODES = (ast.Name, ast.Attribute, ast.Constant, ast.Call, ast.keyword,
               ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
               ast.Tuple, ast.Compare, ast.cmpop, ast.Subscript, ast.Slice,
               ast.expr_context)
_MISSING = object()


def merged_branch(frame: FrameType, statement: ast.stmt) -> bool:
    """Do what an ``if`` does on either value of its test.

    Parameters
    ----------
    frame : FrameType
        That asks for the truth of a tensor.
    statement : ast.stmt
        In which it asks.

    Returns
    -------
    bool
        Whether it was done: the test may then be taken to be false.
    """
    if not isinstance(statement, ast.If) or statement.orelse \
            or not all(_assigns_safely(s) or _written(s)
                       for s in statement.body):
        return False
    scope = dict(frame.f_locals)
    test = evaluated(statement.test, frame, scope)
    if not isinstance(test, torch.Tensor) or test.numel() != 1:
        return False
    test = test.reshape(()).bool()
    assigned: dict[str, Any] = {}
    written: dict[str, torch.Tensor] = {}
    for step in statement.body:
        target = _written(step)
        if target:
            if target in assigned or not _write(step, target, frame, scope,
                                                written):
                return False
        elif written:
            # It might read what is written, under another name.
            return False
        else:
            name, value = _parts(step)
            assigned[name] = scope[name] = evaluated(value, frame, scope)
    before = {n: frame.f_locals.get(n, _MISSING) for n in assigned}
    if not all(_alike(before[n], x) for n, x in assigned.items()):
        return False
    if any(map(_differentiable, before.values())) and not all(
            any(t is x for x in (*before.values(), *assigned.values()))
            for t in _tensors(statement, frame, scope)):
        return False
    for name, tensor in written.items():
        tensor.copy_(torch.where(test, scope[name], tensor))
    assign(
        frame, {
            n:
            torch.where(test, x, before[n]) if isinstance(
                before[n], torch.Tensor) else x
            for n, x in assigned.items()
        })
    return True


def _assigns_safely(step: ast.stmt) -> bool:
    """Not ``x += y``, which writes to a tensor that others may see."""
    return (isinstance(step, ast.Assign) and len(step.targets) == 1
            and isinstance(step.targets[0], ast.Name)
            and all(map(_is_safe, ast.walk(step.value))))


def _written(step: ast.stmt) -> str:
    """The variable into whose places ``x[...] = y`` writes, if it does."""
    if not isinstance(step, ast.Assign) or len(step.targets) != 1 \
            or not all(map(_is_safe, ast.walk(step))):
        return ""
    place = step.targets[0]
    if not isinstance(place, ast.Subscript):
        return ""
    root: ast.expr = place
    while isinstance(root, ast.Subscript):
        root = root.value
    return root.id if isinstance(root, ast.Name) else ""


def _write(step: ast.stmt, name: str, frame: FrameType, scope: dict[str, Any],
           written: dict[str, torch.Tensor]) -> bool:
    """Into a copy, which `scope` has then; not where gradients pass."""
    value = scope.get(name)
    if not isinstance(value, torch.Tensor):
        return False
    if name not in written:
        written[name], scope[name] = value, value.detach().clone()
    code = compile(ast.Module([step], []), frame.f_code.co_filename, "exec")
    exec(code, frame.f_globals, scope)
    return not (value.requires_grad or scope[name].requires_grad)


def _is_safe(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(
            called, "id", "")
        return name in _SAFE
    return isinstance(node, (ast.Assign, *_SAFE_NODES))


def _parts(step: ast.stmt) -> tuple[str, ast.expr]:
    assert isinstance(step, ast.Assign)
    target = step.targets[0]
    assert isinstance(target, ast.Name)
    return target.id, step.value


def evaluated(node: ast.expr, frame: FrameType, scope: dict[str, Any]) -> Any:
    """The expression's value; ``and``, ``or`` and ``not`` of tensors too."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = evaluated(node.operand, frame, scope)
        return torch.logical_not(value) if isinstance(
            value, torch.Tensor) else not value
    if isinstance(node, ast.BoolOp):
        combine = functools.partial(_combined, isinstance(node.op, ast.And))
        return functools.reduce(combine, (evaluated(x, frame, scope)
                                          for x in node.values))
    code = compile(ast.Expression(node), frame.f_code.co_filename, "eval")
    return eval(code, frame.f_globals, scope)


def _combined(both: bool, left: Any, right: Any) -> Any:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        join = torch.logical_and if both else torch.logical_or
        return join(left, right)
    plain, other = (right, left) if isinstance(left, torch.Tensor) else (left,
                                                                         right)
    return other if bool(plain) is both else plain


def _alike(before: Any, after: Any) -> bool:
    """Whether the one may stand for the other; new names are nobody's."""
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        return (before.shape == after.shape and before.dtype == after.dtype
                and before.requires_grad == after.requires_grad)
    return before is _MISSING or (type(before) is type(after)
                                  and before == after)


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _tensors(statement: ast.If, frame: FrameType,
             scope: dict[str, Any]) -> list[torch.Tensor]:
    """Those that the assigned values are made of.

    The side that is not taken gets zeros for gradients. They stay zeros in
    what is replaced, which has other gradients too; another tensor's
    derivatives might be infinite, and its gradients then not numbers.
    """
    found = []
    for step in filter(_assigns_safely, statement.body):
        for node in ast.walk(_parts(step)[1]):
            if isinstance(node, (ast.Name, ast.Attribute)) and not any(
                    isinstance(n, ast.Call) for n in ast.walk(node)):
                found.append(evaluated(node, frame, scope))
    return [x for x in found if isinstance(x, torch.Tensor)]


def assign(frame: FrameType, values: dict[str, Any]) -> None:
    """To local variables of a running frame, as debuggers do."""
    frame.f_locals.update(values)
    # Up to Python 3.12 f_locals is a copy, which has to be written back.
    write_back = getattr(ctypes.pythonapi, "PyFrame_LocalsToFast", None)
    if write_back is not None:
        write_back(ctypes.py_object(frame), ctypes.c_int(0))
