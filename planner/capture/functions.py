"""Keep custom ``torch.autograd.Function`` s while a model is traced.

A trace runs through a Function's forward and forgets its backward; the
program would then differentiate the forward, silently. So each becomes an
operator with the Function's own forward and backward.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import function as autograd_function
from torch.utils import _pytree as pytree

from planner.capture.operators import FunctionOperator, NotAnOperator
from planner.ir.errors import CaptureError

__all__ = ["kept_functions"]


@contextlib.contextmanager
def kept_functions(notes: list[str]) -> Iterator[None]:
    """Make operators of the custom Functions that are applied meanwhile.

    Functions without a differentiable input are traced through; so are
    torch's own, whose operators carry their derivatives.

    Raises
    ------
    CaptureError
        From inside, where a Function can't be made an operator.
    """
    # Patched below Function itself: `f = MyFunction.apply` may be bound.
    owner: Any = autograd_function._SingleLevelFunction

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if not _loses_backward(cls, args):
            return super(owner, cls).apply(*args, **kwargs)
        note = (f"the custom autograd function {cls.__qualname__} is kept "
                "as an operator; its forward runs again in its backward")
        if note not in notes:
            notes.append(note)
        return _applied(cls, args)

    assert "apply" not in owner.__dict__
    owner.apply = classmethod(apply)
    try:
        yield
    finally:
        del owner.apply


def _applied(cls: type, args: tuple[Any, ...]) -> Any:
    try:
        return FunctionOperator.of(cls, args)(args)
    except NotAnOperator as error:
        raise CaptureError(
            f"the custom autograd function {cls.__qualname__} "
            f"({_where(cls)}) has a backward of its own, which a captured "
            f"graph would lose, and can't be kept as an operator: {error}; "
            "register it with torch.library.custom_op and "
            "register_autograd, or write its forward so that ordinary "
            "differentiation gives the gradient you want (x + (f(x) - "
            "x).detach() for a straight-through estimator)") from error


def _loses_backward(cls: type, args: Any) -> bool:
    if cls.__module__.startswith(("torch.", "planner.ops.")):
        return False
    return torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad
        for x in pytree.tree_leaves(args))


def _where(cls: type) -> str:
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{inspect.getsourcefile(cls)}:{line}"
    except (OSError, TypeError):
        return cls.__module__
