"""Let what runs while a model is exported run as it does elsewhere.

Libraries ask ``torch.compiler.is_exporting()`` and ``is_compiling()`` and
then go another way. Torch has no public means to answer otherwise; its
private ones are confined to this file, and a test notices when they change.
An export also keeps a stack of the modules that are called, which is wrong
after a call that raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["not_exporting"]

_FLAGS = ("_is_compiling_flag", "_is_exporting_flag")
_METHODS = {n: vars(nn.Module)[n] for n in ("__call__", "__getattr__")}


@contextlib.contextmanager
def not_exporting() -> Iterator[None]:
    """As if nothing were exported meanwhile."""
    flags = {n: getattr(torch.compiler, n) for n in _FLAGS}
    methods = {n: vars(nn.Module)[n] for n in _METHODS}
    _set(torch.compiler, dict.fromkeys(_FLAGS, False))
    _set(nn.Module, _METHODS)
    try:
        yield
    finally:
        _set(torch.compiler, flags)
        _set(nn.Module, methods)


def _set(owner: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(owner, name, value)
