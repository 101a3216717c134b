"""What experts cost: products, memory, and tokens on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.cluster.coefficients import FUNCTIONS
from planner.cost.beside import Beside
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
    activation : str
        What is evaluated between the products.
    """

    rows: int
    width: int
    outer: int
    inner: int
    itemsize: int
    activation: str = "silu"

    @property
    def flops(self) -> float:
        """Of both products forward; each operand's gradient costs that."""
        return 2.0 * self.rows * self.width * (self.outer + self.inner)

    @property
    def row_bytes(self) -> int:
        """Of all rows as they are dispatched."""
        return self.rows * self.width * self.itemsize

    @property
    def product_bytes(self) -> int:
        """Rows read and written by both products forward."""
        return self.rows * self.itemsize * (2 * self.width + self.outer +
                                            self.inner)

    @property
    def forward_beside(self) -> Beside:
        """What :mod:`planner.ops.experts` does around the products: rows are
        picked, weighted, put back and summed for each token, and between the
        products the activation and the gate are computed."""
        numbers = self.rows * (8 * self.width + self._gate(2, 5) * self.inner)
        return Beside(size_bytes=self.itemsize * numbers,
                      evaluated=self._evaluated(2))

    @property
    def backward_beside(self) -> Beside:
        """Gradients are picked, weighted and put back, the activation and its
        derivative computed, and the weights' gradients summed."""
        numbers = self.rows * (8 * self.width +
                               self._gate(11, 26) * self.inner)
        again = self._gate(2, 4)
        return Beside(size_bytes=self.itemsize * numbers,
                      evaluated=self._evaluated(again, 3))

    def _evaluated(self,
                   forward: int,
                   backward: int = 0) -> tuple[tuple[str, int], ...]:
        """The activation and its derivative, over so many tensors; one that
        takes no longer than it moves is not told."""
        if self.activation not in FUNCTIONS:
            return ()
        named = ((self.activation, forward), (f"{self.activation}_backward",
                                              backward))
        return tuple(
            (n, self._inner_bytes(times)) for n, times in named if times)

    def _gate(self, plain: int, gated: int) -> int:
        return gated if self.outer > self.inner else plain

    def _inner_bytes(self, times: int) -> int:
        return times * self.rows * self.inner * self.itemsize

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
                       itemsize=hidden.dtype.itemsize,
                       activation=_function(call.arg(7, "activation", "silu")))


def _function(activation: str) -> str:
    """The name of what takes as long: both kinds of GELU are one."""
    return "gelu" if activation.startswith("gelu") else activation


def is_uneven(options: Sequence[Option]) -> bool:
    """Whether a rank's work depends on how tokens choose experts."""
    return any(o.lowering in _UNEVEN for o in options)
