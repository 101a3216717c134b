"""Put descriptions of single plans together as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = ["stack"]

T = TypeVar("T")


def stack(parts: Sequence[T]) -> T:
    """One description whose fields are arrays over `parts`.

    Parameters
    ----------
    parts : sequence
        Of one dataclass; fields are numbers, arrays of one dimension or
        dataclasses of such.
    """
    first: Any = parts[0]
    fields = {
        field.name: _stacked([getattr(p, field.name) for p in parts])
        for field in dataclasses.fields(first)
    }
    return type(first)(**fields)


def _stacked(values: Sequence[Any]) -> Any:
    if dataclasses.is_dataclass(values[0]):
        return stack(values)
    return np.concatenate([np.atleast_1d(v) for v in values])
