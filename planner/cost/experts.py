"""What experts cost: products, memory, and tokens on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.rules.registry import OpCall, Option

__all__ = ["COUNT_BYTES", "ExpertSizes", "expert_sizes", "is_uneven"]

COUNT_BYTES = 8
"""Of how many rows an expert gets."""

_UNEVEN = ("expert_dispatch", "expert_owned")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSizes:
    """Sizes of a call of ``scaletorch::experts``.

    Parameters
    ----------
    rows : int
        Tokens times experts for each.
    width : int
        Of a token.
    outer, inner : int
        Of what the first product gives and of what the second takes.
    itemsize : int
        Bytes of a number.
    """

    rows: int
    width: int
    outer: int
    inner: int
    itemsize: int

    @property
    def flops(self) -> float:
        """Of both products forward; each operand's gradient costs that."""
        return 2.0 * self.rows * self.width * (self.outer + self.inner)

    @property
    def row_bytes(self) -> int:
        """Of all rows as they are dispatched."""
        return self.rows * self.width * self.itemsize

    @property
    def moved_bytes(self) -> int:
        """Rows read and written by the forward beside the matrices: picked,
        both products, the gate between them, weighted sums."""
        return self.rows * self.itemsize * (6 * self.width + 2 * self.outer +
                                            2 * self.inner)

    @property
    def kept_bytes(self) -> int:
        """Rows and first product, kept for the backward."""
        return self.rows * (self.itemsize * (self.width + self.outer) + 8)


def expert_sizes(call: OpCall) -> ExpertSizes:
    """Sizes of a call with these (global or local) shapes."""
    hidden, index, _, gate_up, down = call.inputs[:5]
    transposed = call.arg(9, "transposed", False)
    return ExpertSizes(rows=index.numel,
                       width=hidden.shape[1],
                       outer=gate_up.shape[2 if transposed else 1],
                       inner=down.shape[1 if transposed else 2],
                       itemsize=hidden.dtype.itemsize)


def is_uneven(options: Sequence[Option]) -> bool:
    """Whether a rank's work depends on how tokens choose experts."""
    return any(o.lowering in _UNEVEN for o in options)
