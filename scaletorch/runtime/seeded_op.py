"""Operators that draw numbers under a given seed, for ``torch.compile``.

The compiler can't look into a call that sets and restores the generator;
as registered operators such calls are opaque to it and stay in the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from scaletorch.runtime.random import SeededCall

__all__ = ["seeded_op"]


def seeded_op(target: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operator ``scaletorch::seeded_x(Tensor seed, int salt, ...)``.

    Parameters
    ----------
    target : OpOverload
        Of ATen, without side effects but on the generator.

    Returns
    -------
    callable
        The same operator for the same target.
    """
    name = "seeded_" + target.name().partition("::")[2].replace(".", "_")
    namespace = torch.ops.scaletorch
    if not hasattr(namespace, name):
        _register(name, target)
    return getattr(namespace, name).default


def _register(name: str, target: torch._ops.OpOverload) -> None:
    _, _, signature = str(target._schema).partition("(")
    comma = "" if signature.startswith(")") else ", "
    torch.library.define(f"scaletorch::{name}",
                         f"(Tensor seed, int salt{comma}{signature}")

    def run(seed: torch.Tensor, salt: int, *args: Any, **kwargs: Any) -> Any:
        return SeededCall(target, salt)(int(seed), *args, **kwargs)

    def shapes(seed: torch.Tensor, salt: int, *args: Any,
               **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    torch.library.impl(f"scaletorch::{name}", "default", run)
    torch.library.register_fake(f"scaletorch::{name}", shapes)
