"""Keep ``torch.no_grad`` in the graph, as ``aten.detach`` on what enters it.

A graph has no gradient mode. What is computed without gradients must not
carry any: while a model is traced, every operator called in that mode gets
its differentiable inputs detached.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from planner.ir.errors import CaptureError

__all__ = ["DetachWithoutGrad", "NoForm", "running_line", "writes_in_place"]

_OURS = str(Path(__file__).parent)
_GET_DATA = torch.Tensor.data.__get__
_SET_DATA = torch.Tensor.data.__set__
_SET_GRAD = torch._C._set_grad_enabled
_SET_REQUIRES = torch.Tensor.requires_grad.__set__
_PLAIN = ("__get__", "__set__", "detach", "detach_", "requires_grad_", "size",
          "dim", "stride", "is_floating_point", "numel", "item", "__len__",
          "register_hook")
_INPLACE_DUNDERS = ("__setitem__", "__iadd__", "__isub__", "__imul__",
                    "__itruediv__", "__iand__", "__ior__", "__ipow__")


class NoForm(CaptureError):
    """What the code does can't be done by a part that is not traced either."""


class DetachWithoutGrad(TorchFunctionMode):
    """Active while the model's own code runs.

    ``x.data`` is ``x.detach()`` and ``x.data = y`` a copy, of which a trace
    would know nothing otherwise.

    Raises
    ------
    CaptureError
        When such code writes into a value that carries a gradient: autograd
        would not see that, and a functional graph can't say so. So where
        it writes through ``.data`` or ``detach()``.
    """

    def __init__(self) -> None:
        super().__init__()
        # By memory; kept, so that it is not another's.
        self.carriers: dict[int, torch.Tensor] = {}
        # Parameters that the forward pass has frozen for a while.
        self.frozen: dict[int, torch.Tensor] = {}

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if func is _SET_GRAD:
            # No node of the graph: regions of it would be traced once more.
            with torch._C.DisableTorchFunction():
                return func(*args)
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        writes = (bool(args) and writes_in_place(name) and name not in _PLAIN)
        if args and isinstance(args[0], FakeTensor):
            if func == _SET_DATA:
                return _assign(*args)
            if func == _GET_DATA or name == "detach":
                return self._behind(args[0])
            if func == _SET_REQUIRES or name == "requires_grad_":
                self._require(*args, **kwargs)
            if name == "register_hook":
                raise NoForm(
                    f"a gradient hook is registered, at {running_line()}, which a "
                    "graph would lose; do in a custom "
                    "torch.autograd.Function what it does to gradients")
            if writes:
                self._check_behind(args[0], name)
        if name in _PLAIN:
            return func(*args, **kwargs)
        if torch.is_grad_enabled():
            if self.frozen:
                args, kwargs = pytree.tree_map_only(torch.Tensor,
                                                    self._as_frozen,
                                                    (args, kwargs))
            return func(*args, **kwargs)
        first: tuple[Any, ...] = ()
        if writes:
            _check_written(args[0], name)
            first, args = args[:1], args[1:]
        args, kwargs = pytree.tree_map_only(torch.Tensor, self._without_grad,
                                            (args, kwargs))
        return func(*first, *args, **kwargs)

    def _require(self,
                 tensor: torch.Tensor,
                 requires_grad: bool = True) -> None:
        """``parameter.requires_grad = ...``, which no graph knows of."""
        if not isinstance(tensor, nn.Parameter):
            return
        if not requires_grad and tensor.requires_grad:
            self.frozen[id(tensor)] = tensor
        elif requires_grad and self.frozen.pop(
                id(tensor), None) is None and not tensor.requires_grad:
            raise NoForm(
                f"the forward pass thaws a frozen parameter, at {running_line()}; "
                "do it before the model is given to ScaleTorch")

    def _as_frozen(self, value: torch.Tensor) -> torch.Tensor:
        return value.detach() if id(value) in self.frozen else value

    def _without_grad(self, value: torch.Tensor) -> torch.Tensor:
        return self._behind(value) if value.requires_grad else value

    def _behind(self, value: torch.Tensor) -> torch.Tensor:
        """The same memory, of which autograd knows nothing."""
        if value.requires_grad and not value.is_leaf:
            self.carriers[_memory(value)] = value
        return value.detach()

    def _check_behind(self, written: torch.Tensor, name: str) -> None:
        if not written.requires_grad and _memory(written) in self.carriers:
            raise CaptureError(
                f"the memory of a value that carries a gradient is written "
                f"({name}) behind autograd's back, at {running_line()}; clone the "
                "value before it is written")


def writes_in_place(name: str) -> bool:
    """Whether a function of torch, by its name, writes to its first operand."""
    return name in _INPLACE_DUNDERS or (name.endswith("_")
                                        and not name.endswith("__"))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _assign(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """``tensor.data = value``

    Raises
    ------
    CaptureError
        When the shape or dtype becomes another, or where the tensor carries
        a gradient: autograd does not see that its value is another.
    """
    if tensor.requires_grad and not tensor.is_leaf:
        raise CaptureError(
            f"{running_line()} assigns to the .data of a value that carries a "
            "gradient, behind autograd's back; where the gradient is to pass "
            "as it does there write x = x + (value - x).detach()")
    if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
        raise CaptureError(
            f"{running_line()} assigns {tuple(value.shape)} of {value.dtype} to the "
            f".data of a tensor of {tuple(tensor.shape)} of {tensor.dtype}; a "
            "program has fixed shapes: make another tensor")
    with torch.no_grad():
        tensor.copy_(value.detach())


def running_line() -> str:
    """The line of the model's code that is running."""
    frame = next(f for f in reversed(traceback.extract_stack())
                 if "/torch/" not in f.filename and _OURS not in f.filename)
    return f"{frame.filename}:{frame.lineno}: {frame.line}"


def _check_written(value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor) or not value.requires_grad \
            or value.is_leaf:
        return
    raise CaptureError(
        f"a torch.no_grad block writes ({name}) into a value that carries "
        f"a gradient, at {running_line()}; "
        "clone or detach the value before it is written")
