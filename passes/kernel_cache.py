"""Kernels that were lowered before, for whoever runs the same.

A rank's place decides over a kernel only where a pass asks for the
coordinate on an axis. All else is the same on every rank, so that ranks that
are threads of one process lower a block class once, and so do stages of a
rank and calls that differ in their inputs or outputs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from passes.collectives import AxisRef
from passes.steps import Kernel

__all__ = ["NotedAxis", "kernel_of"]


class NotedAxis(AxisRef):
    """An axis that notes whether its coordinate has been asked for."""

    __slots__ = ("asked", )
    asked: bool

    @classmethod
    def of(cls, axis: AxisRef) -> NotedAxis:
        """The same axis, which nobody has asked yet."""
        made = cls(name=axis.name,
                   size=axis.size,
                   coordinate=axis.coordinate,
                   sequential=axis.sequential,
                   shares=axis.shares)
        object.__setattr__(made, "asked", False)
        return made

    def __getattribute__(self, name: str) -> Any:
        if name == "coordinate":
            object.__setattr__(self, "asked", True)
        return object.__getattribute__(self, name)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A kernel, how it was lowered, and for which coordinates by position."""

    key: Any
    coordinates: Mapping[int, int]
    kernel: Kernel

    def fits(self, key: Any, axes: Sequence[AxisRef]) -> bool:
        return self.key == key and all(axes[i].coordinate == c
                                       for i, c in self.coordinates.items())


_FOUND: weakref.WeakKeyDictionary[fx.Graph,
                                  list[_Entry]] = weakref.WeakKeyDictionary()
"""By the graph of the block class; forgotten with it."""


def kernel_of(graph: fx.Graph, key: Any, axes: Sequence[AxisRef],
              make: Callable[[tuple[AxisRef, ...]], Kernel]) -> Kernel:
    """The kernel of a block class, lowered if it has not been.

    Parameters
    ----------
    graph : fx.Graph
        The class's graph, which nobody changes any more.
    key : Any
        All else that the kernel depends on, but for the axes.
    axes : sequence of AxisRef
        The rank's place on the mesh.
    make : callable
        Lowers the class for a rank's place.
    """
    key = (key, tuple((a.name, a.size, a.sequential, a.shares) for a in axes))
    entries = _FOUND.setdefault(graph, [])
    for entry in entries:
        if entry.fits(key, axes):
            return entry.kernel
    noted = tuple(map(NotedAxis.of, axes))
    kernel = make(noted)
    asked = {i: a.coordinate for i, a in enumerate(axes) if noted[i].asked}
    entries.append(_Entry(key, asked, kernel))
    return kernel
