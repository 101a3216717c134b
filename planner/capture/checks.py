"""Checks of values in a model's code, which a program leaves out.

``assert (x > 0).all()`` or ``if x.isnan().any(): raise ...`` ask for the
value of a tensor, which a trace does not know; but one of the answers
leads nowhere. So the other one is given.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from planner.capture.guards import merged_branch
from planner.capture.layer_drop import kept_layer
from planner.capture.statements import innermost

__all__ = ["checks_pass", "passing_answer"]

_TELLING = ("print", "warn", "warning", "info", "debug", "error", "critical")


@contextlib.contextmanager
def checks_pass(notes: list[str]) -> Iterator[None]:
    """While a model is traced; each check that is left out gives a note."""
    original = torch.Tensor.__bool__
    merged = _Merged()

    def truth(tensor: torch.Tensor) -> bool:
        if isinstance(tensor, (FakeTensor, FunctionalTensor)):
            frame = sys._getframe(1)
            answer = passing_answer(frame)
            if answer is not None:
                _note(frame, notes)
                return answer
            if merged.done(frame):
                return merged.answer
        try:
            return original(tensor)
        except RuntimeError:
            # make_fx draws real numbers, which it does not tell either.
            if merged.done(sys._getframe(1)):
                return merged.answer
            raise

    torch.Tensor.__bool__ = truth
    try:
        yield
    finally:
        torch.Tensor.__bool__ = original


@dataclass(slots=True)
class _Merged:
    """Remembers which statement was merged: it may ask several times."""

    last: tuple[int, ast.stmt] | None = None
    instruction: int = 0
    wanted: bool = False
    answer: bool = False

    def done(self, frame: FrameType) -> bool:
        """Whether both sides of the statement that asks are computed."""
        place = _place(frame.f_code, frame.f_lasti)
        statement = innermost(frame.f_code.co_filename, place[0])
        if not isinstance(statement, ast.If):
            return False
        this = id(frame), statement
        again = this == self.last and frame.f_lasti > self.instruction
        if not again:
            wanted = _merged_answer(frame, statement)
            if wanted is None:
                return False
            self.wanted = wanted
        self.last, self.instruction = this, frame.f_lasti
        self.answer = _answer(statement.test, place, self.wanted)
        return True


def _merged_answer(frame: FrameType, statement: ast.If) -> bool | None:
    """The answer that goes on where both sides are computed, if they are."""
    loop = innermost(frame.f_code.co_filename, statement.lineno, ast.For)
    if isinstance(loop, ast.For):
        runs = kept_layer(frame, statement, loop)
        if runs is not None:
            return runs
    return False if merged_branch(frame, statement) else None


def _note(frame: FrameType, notes: list[str]) -> None:
    text = ("a check of values is left out, as a program can't depend on "
            f"them: {frame.f_code.co_filename}:{frame.f_lineno}")
    if text not in notes:
        notes.append(text)


def passing_answer(frame: FrameType) -> bool | None:
    """The truth value with which a check goes by.

    Parameters
    ----------
    frame : FrameType
        Of the code that asks for the truth of a tensor.

    Returns
    -------
    bool or None
        None where it is no check: where both answers lead on. What only
        prints or warns is a check.
    """
    place = _place(frame.f_code, frame.f_lasti)
    statement = innermost(frame.f_code.co_filename, place[0])
    if isinstance(statement, ast.Assert):
        return _answer(statement.test, place, True)
    if isinstance(statement, ast.If) and not statement.orelse and all(
            map(_tells, statement.body)):
        return _answer(statement.test, place, False)
    return None


def _tells(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return True
    if not (isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)):
        return False
    called = statement.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(
        called, "id", "")
    return name in _TELLING


def _answer(test: ast.expr, place: tuple[int, int], wanted: bool) -> bool:
    """What an operand at `place` must be for `test` to be as wanted."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _answer(test.operand, place, not wanted)
    if isinstance(test, ast.BoolOp):
        for operand in test.values:
            if _contains(operand, place):
                return _answer(operand, place, wanted)
    return wanted


def _contains(node: ast.expr, place: tuple[int, int]) -> bool:
    end = node.end_lineno or node.lineno, node.end_col_offset or 0
    return (node.lineno, node.col_offset) <= place < end


def _place(code: CodeType, instruction: int) -> tuple[int, int]:
    """Line and column of the expression whose truth is asked for.

    The instruction that asks may be noted with the whole statement; the one
    before it is the expression's own.
    """
    units = itertools.islice(code.co_positions(), instruction // 2)
    line, _, column, _ = collections.deque(units, maxlen=1)[0]
    return line or 0, column or 0
