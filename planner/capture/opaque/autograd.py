"""Ordinary autograd inside of an operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import _C

__all__ = ["above_autograd"]


@contextlib.contextmanager
def above_autograd() -> Iterator[None]:
    """Record gradients although the dispatcher is below autograd here."""
    included = _C._dispatch_tls_local_include_set()
    excluded = _C._dispatch_tls_local_exclude_set()
    for key in (_C.DispatchKey.AutogradFunctionality,
                _C.DispatchKey.AutogradOther, _C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    with _C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield
