"""Which operators a functional graph has as they are.

Some of torch's operators are made of others (``linear``, ``reshape``). An
export keeps those whole that are functions of their operands, and puts what
they are made of in the place of those that may return an operand itself.
Torch's private means to tell are confined to this file, and a test notices
when they change.
"""

from __future__ import annotations

import functools

import torch
from torch._export.utils import _is_cia_op, _is_preservable_cia_op

__all__ = ["is_kept", "is_whole"]

_DECOMPOSED = (torch._C.DispatchKey.Autograd,
               torch._C.DispatchKey.CompositeImplicitAutograd)


@functools.lru_cache(maxsize=None)
def is_kept(target: torch._ops.OpOverload) -> bool:
    """Whether a call of it stays, where nothing is written to.

    Examples
    --------
    >>> is_kept(torch.ops.aten.linear.default)
    True
    >>> is_kept(torch.ops.aten.reshape.default)
    False
    """
    if _is_cia_op(target):
        return bool(_is_preservable_cia_op(target))
    return not any(key in target.py_kernels for key in _DECOMPOSED)


@functools.lru_cache(maxsize=None)
def is_whole(target: torch._ops.OpOverload) -> bool:
    """Whether it is kept although it is made of others.

    Examples
    --------
    >>> is_whole(torch.ops.aten.linear.default)
    True
    >>> is_whole(torch.ops.aten.view.default)
    False
    """
    return bool(_is_cia_op(target)) and is_kept(target)
