"""The mesh's axes bound to real process groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from passes.collectives import AxisRef

__all__ = ["Groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """This rank's axes and their process groups.

    Parameters
    ----------
    names : tuple of str
        The axes' names in the program.
    axes : tuple of AxisRef
        Named by their process groups.
    groups : tuple of ProcessGroup
    """

    names: tuple[str, ...]
    axes: tuple[AxisRef, ...]
    groups: tuple[Any, ...]

    @staticmethod
    def of(names: Sequence[str], axes: Sequence[AxisRef],
           groups: Sequence[Any]) -> Groups:
        """Check that there is one of each and keep them."""
        assert len(names) == len(axes) == len(groups)
        return Groups(names=tuple(names),
                      axes=tuple(axes),
                      groups=tuple(groups))

    def named(self, axis: str) -> int:
        """The number of the axis that the program calls `axis`."""
        return self.names.index(axis)
