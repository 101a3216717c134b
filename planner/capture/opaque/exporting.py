"""Let what runs while a model is exported run as it does elsewhere.

Libraries ask ``torch.compiler.is_exporting()`` and ``is_compiling()`` and
then go another way. Torch has no public means to answer otherwise; its
private ones are confined to this file, and a test notices when they change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["not_exporting"]

_FLAGS = ("_is_compiling_flag", "_is_exporting_flag")


@contextlib.contextmanager
def not_exporting() -> Iterator[None]:
    """As if nothing were exported meanwhile."""
    before = {flag: getattr(torch.compiler, flag) for flag in _FLAGS}
    for flag in _FLAGS:
        setattr(torch.compiler, flag, False)
    try:
        yield
    finally:
        for flag, value in before.items():
            setattr(torch.compiler, flag, value)
