"""Hashes of what many prices are kept by."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["HashedOnce"]


class HashedOnce:
    """Of frozen dataclasses that are often in keys, the hash of all fields
    that are compared."""

    __slots__ = ("_hash", )

    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            own: Any = self
            found = hash(
                tuple(
                    getattr(own, f.name) for f in dataclasses.fields(own)
                    if f.compare))
            object.__setattr__(self, "_hash", found)
            return found
