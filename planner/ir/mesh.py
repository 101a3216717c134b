"""Device meshes as plain data: axis names and sizes, outermost first."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["MeshSpec"]


@dataclass(frozen=True, slots=True)
class MeshSpec:
    """A mesh of ranks.

    Parameters
    ----------
    names : tuple of str
        Axis names, outermost first; the last axis varies fastest.
    sizes : tuple of int
        Ranks along each axis.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.sizes):
            raise ValueError(f"{len(self.names)} axis names for "
                             f"{len(self.sizes)} sizes")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"axis names repeat: {self.names}")
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"axis sizes must be positive: {self.sizes}")

    @property
    def world_size(self) -> int:
        return math.prod(self.sizes)

    def size(self, axis: str) -> int:
        """Ranks along `axis`."""
        return self.sizes[self.index(axis)]

    def index(self, axis: str) -> int:
        """Position of `axis`.

        Raises
        ------
        ValueError
            When the mesh has no such axis.
        """
        if axis not in self.names:
            raise ValueError(f"the mesh has no axis {axis!r}; it has "
                             f"{', '.join(self.names)}")
        return self.names.index(axis)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """The position of `rank` along every axis."""
        place = []
        for size in reversed(self.sizes):
            rank, here = divmod(rank, size)
            place.append(here)
        return tuple(reversed(place))

    def __str__(self) -> str:
        return " x ".join(f"{n}={s}" for n, s in zip(self.names, self.sizes))
