"""Traced graphs for the tests of prices and of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["trace"]


def trace(function: Callable[..., Any],
          *shapes: tuple[int, ...],
          requires_grad: bool = False) -> fx.GraphModule:
    """Trace `function` of float32 tensors of these shapes."""
    with FakeTensorMode():
        args = [
            torch.empty(shape, requires_grad=requires_grad) for shape in shapes
        ]
        return make_fx(function)(*args)
