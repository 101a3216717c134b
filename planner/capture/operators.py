"""An operator made of a ``torch.autograd.Function``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import (TorchDispatchMode,
                                          _disable_current_modes)

__all__ = ["FunctionOperator", "NotAnOperator"]

_LIBRARY = torch.library.Library("captured", "FRAGMENT")
_MADE: dict[tuple[Any, ...], FunctionOperator] = {}


class NotAnOperator(Exception):
    """Why a Function can't be an operator."""


class _Context:
    """What a Function's forward and backward see as `ctx`."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialized = True

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """For forward-mode differentiation, which is not used here."""

    def set_materialize_grads(self, value: bool) -> None:
        self.materialized = value

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """Gradients for those are zeros or None anyway."""

    def mark_dirty(self, *tensors: Any) -> None:
        raise NotAnOperator("it writes to its inputs (ctx.mark_dirty)")


class _NoRandom(TorchDispatchMode):

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotAnOperator(
                f"its forward draws random numbers ({func}), which would "
                "differ when it runs again for the backward")
        return func(*args, **(kwargs or {}))


class FunctionOperator:
    """One Function with fixed non-tensor arguments, as an operator.

    Forward keeps its inputs; backward runs forward again to fill `ctx`.
    """

    def __init__(self, cls: Any, args: tuple[Any, ...], name: str) -> None:
        self.cls = cls
        self.template = tuple(None if isinstance(a, torch.Tensor) else a
                              for a in args)
        self.places = [
            i for i, a in enumerate(args) if isinstance(a, torch.Tensor)
        ]
        self.needs = tuple(
            isinstance(a, torch.Tensor) and a.requires_grad for a in args)
        self.single = True
        count = self._try_out([args[i] for i in self.places])
        self._register(name, count)
        self.target = getattr(torch.ops.captured, name).default

    @staticmethod
    def of(cls: Any, args: tuple[Any, ...]) -> FunctionOperator:
        """The operator for this Function and these arguments."""
        for arg in args:
            if isinstance(arg, (list, tuple, dict)) and any(
                    isinstance(x, torch.Tensor) for x in arg):
                raise NotAnOperator("it takes tensors inside of a container")
        key = (cls, *((a.requires_grad,
                       a.ndim) if isinstance(a, torch.Tensor) else repr(a)
                      for a in args))
        if key not in _MADE:
            plain = re.sub(r"\W", "_", cls.__qualname__.split(".")[-1])
            name = f"{plain}_{len(_MADE)}"
            _MADE[key] = FunctionOperator(cls, args, name)
        return _MADE[key]

    def __call__(self, args: tuple[Any, ...]) -> Any:
        return self.target(*(args[i] for i in self.places))

    def _try_out(self, tensors: Sequence[torch.Tensor]) -> int:
        """Run on fake tensors; the number of outputs."""
        with _disable_current_modes(), FakeTensorMode(), _NoRandom():
            fakes = [
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)
                for t in tensors
            ]
            result = self._run(_Context(self.needs), fakes)
        self.single = isinstance(result, torch.Tensor)
        results = (result, ) if self.single else result
        if not all(isinstance(r, torch.Tensor) for r in results):
            raise NotAnOperator("it returns something that is no tensor")
        return len(results)

    def _run(self, context: _Context, tensors: Sequence[torch.Tensor]) -> Any:
        args = list(self.template)
        for place, tensor in zip(self.places, tensors, strict=True):
            args[place] = tensor
        with torch.no_grad():
            if self.cls.setup_context is not \
                    torch.autograd.Function.setup_context:
                output = self.cls.forward(*args)
                self.cls.setup_context(context, tuple(args), output)
                return output
            return self.cls.forward(context, *args)

    def _register(self, name: str, count: int) -> None:
        takes = ", ".join(f"Tensor a{i}" for i in range(len(self.places)))
        gives = "Tensor" if self.single else \
            f"({', '.join(['Tensor'] * count)})"
        _LIBRARY.define(f"{name}({takes}) -> {gives}")
        _LIBRARY.impl(name, self._forward, "CompositeExplicitAutograd")
        full = f"captured::{name}"
        torch.library.register_fake(full, self._forward, lib=_LIBRARY)
        torch.library.register_autograd(full,
                                        self._backward,
                                        setup_context=_save_inputs,
                                        lib=_LIBRARY)

    def _forward(self, *tensors: torch.Tensor) -> Any:
        output = self._run(_Context(self.needs), tensors)
        storages = {t.untyped_storage()._cdata for t in tensors}

        def own(result: torch.Tensor) -> torch.Tensor:
            """An operator's output must not alias its inputs."""
            shared = result.untyped_storage()._cdata in storages
            return result.clone() if shared else result

        return own(output) if self.single else tuple(map(own, output))

    def _backward(self, ctx: Any, *grads: Any) -> Any:
        context = _Context(self.needs)
        output = self._run(context, ctx.saved_tensors)
        outputs = (output, ) if self.single else output
        if context.materialized:
            grads = tuple(
                torch.zeros_like(o) if g is None else g
                for g, o in zip(grads, outputs, strict=True))
        found = self.cls.backward(context, *grads)
        found = found if isinstance(found, tuple) else (found, )
        return tuple(found[i] for i in self.places)


def _save_inputs(ctx: Any, inputs: tuple[torch.Tensor, ...],
                 output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs)
