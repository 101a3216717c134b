"""Guard custom ``torch.autograd.Function`` s while a model is traced.

A trace runs through a Function's forward and forgets its backward; the
program would then differentiate the forward, silently.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import function as autograd_function
from torch.utils import _pytree as pytree

from planner.ir.errors import CaptureError

__all__ = ["guarded_functions"]


@contextlib.contextmanager
def guarded_functions() -> Iterator[None]:
    """Raise CaptureError where a custom Function would lose its backward.

    Functions without a differentiable input are traced through; so are
    torch's own, whose operators carry their derivatives.
    """
    # Patched below Function itself: `f = MyFunction.apply` may be bound.
    owner: Any = autograd_function._SingleLevelFunction
    original = owner.__dict__.get("apply")
    inherited = owner.apply.__func__ if original else None

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if _loses_backward(cls, args):
            raise CaptureError(_message(cls))
        if inherited is not None:
            return inherited(cls, *args, **kwargs)
        return super(owner, cls).apply(*args, **kwargs)

    owner.apply = classmethod(apply)
    try:
        yield
    finally:
        if original is None:
            del owner.apply
        else:
            owner.apply = original


def _loses_backward(cls: type, args: Any) -> bool:
    if cls.__module__.split(".")[0] == "torch":
        return False
    return torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad
        for x in pytree.tree_leaves(args))


def _message(cls: type) -> str:
    return (f"the custom autograd function {cls.__qualname__} ({_where(cls)})"
            " has a backward of its own, which a captured graph would lose; "
            "register it as an operator with torch.library.custom_op and "
            "register_autograd, or write its forward so that ordinary "
            "differentiation gives the gradient you want (x + (f(x) - "
            "x).detach() for a straight-through estimator)")


def _where(cls: type) -> str:
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{inspect.getsourcefile(cls)}:{line}"
    except (OSError, TypeError):
        return cls.__module__
