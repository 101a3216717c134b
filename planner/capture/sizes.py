"""Sizes that depend on values, in torch's own checks of shapes.

While ``F.cross_entropy(x[mask], y[mask])`` is traced, shape functions ask
whether there are any rows. They are told that there are many: what is
computed from such rows runs as it is, and checks itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import (GuardOnDataDependentSymNode,
                                                   ShapeEnv)

__all__ = ["unknown_sizes_are_large"]

_MANY = sympy.Integer(2**8 * 3**4 * 5**2 * 7)
"""Divided by most numbers."""

_TORCH = Path(torch.__file__).parent
_ASKING = (str(_TORCH / "fx" / "experimental"), str(_TORCH / "__init__.py"),
           __file__)


@contextlib.contextmanager
def unknown_sizes_are_large() -> Iterator[None]:
    """While a model is traced; what its own code asks stays unanswered."""
    original: Any = ShapeEnv.evaluate_sym_node

    def answered(env: ShapeEnv, node: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(env, node, *args, **kwargs)
        except GuardOnDataDependentSymNode:
            answer = _with_many(env, node.expr)
            if answer is None or not _asked_by_torch():
                raise
            return answer

    ShapeEnv.evaluate_sym_node = answered
    try:
        yield
    finally:
        ShapeEnv.evaluate_sym_node = original


def _with_many(env: ShapeEnv, expression: Any) -> Any:
    """The truth of a statement on sizes; None where it is something else."""
    symbols = expression.free_symbols
    if not symbols or not symbols <= set(env.size_like):
        return None
    answer = expression.xreplace(dict.fromkeys(symbols, _MANY))
    return answer if answer in (sympy.true, sympy.false) else None


def _asked_by_torch() -> bool:
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_ASKING):
        assert frame.f_back is not None
        frame = frame.f_back
    return Path(frame.f_code.co_filename).is_relative_to(_TORCH)
