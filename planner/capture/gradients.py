"""Keep ``torch.no_grad`` in the graph, as ``aten.detach`` on what enters it.

A graph has no gradient mode. What is computed without gradients must not
carry any: while a model is traced, every operator called in that mode gets
its differentiable inputs detached.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from planner.ir.errors import CaptureError

__all__ = ["DetachWithoutGrad", "writes_in_place"]

_PLAIN = ("__get__", "__set__", "detach", "detach_", "requires_grad_", "size",
          "dim", "stride", "is_floating_point", "numel", "item", "__len__",
          "register_hook")
_INPLACE_DUNDERS = ("__setitem__", "__iadd__", "__isub__", "__imul__",
                    "__itruediv__", "__iand__", "__ior__", "__ipow__")


class DetachWithoutGrad(TorchFunctionMode):
    """Active while the model's own code runs.

    Raises
    ------
    CaptureError
        When such code writes into a value that carries a gradient: autograd
        would not see that, and a functional graph can't say so.
    """

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if torch.is_grad_enabled() or name in _PLAIN:
            return func(*args, **kwargs)
        first: tuple[Any, ...] = ()
        if args and writes_in_place(name):
            _check_written(args[0], name)
            first, args = args[:1], args[1:]
        args, kwargs = pytree.tree_map(_detached, (args, kwargs))
        return func(*first, *args, **kwargs)


def writes_in_place(name: str) -> bool:
    """Whether a function of torch, by its name, writes to its first operand."""
    return name in _INPLACE_DUNDERS or (name.endswith("_")
                                        and not name.endswith("__"))


def _detached(value: Any) -> Any:
    carries = isinstance(value, torch.Tensor) and value.requires_grad
    return value.detach() if carries else value


def _check_written(value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor) or not value.requires_grad \
            or value.is_leaf:
        return
    frame = next(f for f in reversed(traceback.extract_stack())
                 if "/torch/" not in f.filename and f.filename != __file__)
    raise CaptureError(
        f"a torch.no_grad block writes ({name}) into a value that carries "
        f"a gradient, at {frame.filename}:{frame.lineno}: {frame.line}; "
        "clone or detach the value before it is written")
