"""Modules that a forward pass moves or converts: ``self.head.to(dtype)``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from planner.capture.gradients import NoForm, running_line
from planner.capture.nodes import strip_entry

__all__ = ["modules_stay"]

_NAMED = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16
}


@contextlib.contextmanager
def modules_stay(model: nn.Module) -> Iterator[None]:
    """Let modules be as they are where nothing is to change.

    Parameters
    ----------
    model : nn.Module
        Which is traced meanwhile.

    Raises
    ------
    NoForm
        When the model's code asks for parameters of another dtype, which
        the optimizer would then have from the second step on.
    """
    originals = {n: getattr(nn.Module, n) for n in ("to", *_NAMED)}
    for name, original in originals.items():
        setattr(nn.Module, name, _staying(name, original, model))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(nn.Module, name, original)


def _staying(name: str, original: Callable[..., Any],
             model: nn.Module) -> Callable[..., Any]:

    def stay(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        paths = {id(m): n for n, m in model.named_modules()}
        if id(self) not in paths:
            return original(self, *args, **kwargs)
        dtype = _NAMED.get(name) or torch._C._nn._parse_to(*args, **kwargs)[1]
        if dtype is not None:
            _check(self, strip_entry(paths[id(self)]), dtype)
        return self

    return stay


def _check(module: nn.Module, path: str, dtype: torch.dtype) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            raise NoForm(
                f"the forward pass converts {path or 'the model'} (its "
                f"{name}) from {parameter.dtype} to {dtype}, at "
                f"{running_line()}, so that its first call changes what is "
                "trained; do it before the model is given to ScaleTorch: "
                f"{f'model.{path}' if path else 'model'}.to({dtype}), or a "
                "call of the model")
