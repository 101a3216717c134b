"""A price on memory, which makes the search save some of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.cost.optimizer import optimizer_bytes
from planner.ir.layout import Layout
from planner.rules.registry import TensorSpec
from planner.search.placed import PLAIN, Numbers

__all__ = ["MemoryPressure", "local_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure:
    """What memory costs.

    Parameters
    ----------
    price_s_per_byte : float
        Seconds that a byte of peak memory is taken to cost.
    optimizer : str
        Whose state lies beside the parameters.
    """

    price_s_per_byte: float
    optimizer: str = "adamw"

    def state_factor(self, spec: TensorSpec) -> float:
        """Seconds per byte of a parameter, its gradient and state."""
        size = spec.size_bytes
        if not spec.requires_grad or not size:
            return self.price_s_per_byte
        state = optimizer_bytes(self.optimizer, [spec])
        return self.price_s_per_byte * (2 * size + state) / size


def local_bytes(spec: TensorSpec, layout: Layout, axis: int, own: Numbers,
                sizes: Sequence[int]) -> npt.NDArray[np.float64]:
    """What one rank holds, for some placements over one axis.

    `layout` is over the other axes; what it says of `axis` does not count.
    """
    size = float(spec.size_bytes)
    for other, placement in enumerate(layout):
        if other != axis and placement.is_shard:
            size /= sizes[other]
    return np.where(own >= len(PLAIN), size / sizes[axis], size)
