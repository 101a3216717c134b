"""Placements: how one tensor lies over one mesh axis, and its gradient.

A placement names two things at once, the layout of a value and the layout
of its gradient, because the two determine each other once a program is
differentiated:

======== ================== ==================
printed  value              gradient
======== ================== ==================
``R``    ``Replicate()``    ``Replicate()``
``V``    ``Replicate()``    ``Partial("sum")``
``P``    ``Partial("sum")`` ``Replicate()``
``Pmax`` ``Partial("max")`` none
``S(d)`` ``Shard(d)``       ``Shard(d)``
======== ================== ==================

``S(d:4+1+1)`` is a shard by parts: dim `d` is made of three parts, four,
one and one sixths of it, and every rank holds its shard of each, one after
the other. So lies a fused projection's weight when heads are divided.

``V`` ("varying gradient") is what a sharded operator wants of an operand
that it holds whole: every rank computes only its share of the gradient.
Turning ``R`` into ``V`` moves nothing forward and all-reduces backward;
turning ``S(1)`` into ``V`` all-gathers forward and reduce-scatters
backward. Those two are the whole of Megatron's tensor and sequence
parallelism, and ``S(0)`` to ``V`` on a parameter is fully sharded data
parallelism.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import \
    Placement as TorchPlacement

__all__ = [
    "Layout", "P", "PMAX", "Placement", "R", "S", "V", "format_layout",
    "local_shape", "parse_layout", "parse_placement"
]

_TEXT = re.compile(r"R|V|P(max|min)?|S\((\d+)(?::(\d+(?:\+\d+)+))?\)")

_PLACEMENTS: dict[tuple[object, ...], Placement] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """One tensor over one mesh axis.

    Equal ones are one object, which is compared and hashed by identity:
    layouts are keys of most of the planner's tables.

    Parameters
    ----------
    kind : str
        ``"R"``, ``"V"``, ``"P"`` or ``"S"``; see the module's table.
    dim : int
        The tensor dimension that is sharded (``S`` only).
    reduce : str
        How partial values combine (``P`` only): sum, max or min.
    parts : tuple of int
        What the sharded dim is made of, in least proportions (``S``
        only); every rank holds its shard of each part. Empty: one part.
    """

    kind: str
    dim: int = -1
    reduce: str = "sum"
    parts: tuple[int, ...] = ()

    def __new__(cls,
                kind: str,
                dim: int = -1,
                reduce: str = "sum",
                parts: tuple[int, ...] = ()) -> Placement:
        key = (kind, dim, reduce, parts)
        return _PLACEMENTS.get(key) or _PLACEMENTS.setdefault(
            key, object.__new__(cls))

    def __reduce__(self) -> tuple[type[Placement], tuple[object, ...]]:
        return Placement, self.fields

    def __str__(self) -> str:
        if self.kind == "S" and self.parts:
            return f"S({self.dim}:{'+'.join(map(str, self.parts))})"
        if self.kind == "S":
            return f"S({self.dim})"
        if self.kind == "P" and self.reduce != "sum":
            return f"P{self.reduce}"
        return self.kind

    __repr__ = __str__

    @property
    def fields(self) -> tuple[str, int, str, tuple[int, ...]]:
        """What tells it from others, which sorts them."""
        return self.kind, self.dim, self.reduce, self.parts

    @property
    def is_shard(self) -> bool:
        return self.kind == "S"

    @property
    def is_partial(self) -> bool:
        return self.kind == "P"

    @property
    def is_replicated(self) -> bool:
        """Whether every rank holds the whole value (``R`` and ``V``)."""
        return self.kind in ("R", "V")

    @property
    def value(self) -> TorchPlacement:
        """The value's placement in torch's terms.

        Raises
        ------
        ValueError
            For a shard by parts, which none of torch's describes.
        """
        self._check_one_part()
        return _to_torch(self.kind, self.dim, self.reduce)

    @property
    def grad(self) -> TorchPlacement:
        """The gradient's placement in torch's terms."""
        self._check_one_part()
        return _to_torch(
            *{
                "R": ("R", -1, "sum"),
                "V": ("P", -1, "sum"),
                "P": ("R", -1, "sum"),
                "S": ("S", self.dim, "sum")
            }[self.kind])

    def _check_one_part(self) -> None:
        if self.parts:
            raise ValueError(f"{self} is no placement of a DTensor; let the "
                             f"value rest as S({self.dim})")


def _to_torch(kind: str, dim: int, reduce: str) -> TorchPlacement:
    if kind == "S":
        return Shard(dim)
    if kind == "P":
        return Partial(reduce)
    return Replicate()


R = Placement("R")
V = Placement("V")
P = Placement("P")
PMAX = Placement("P", reduce="max")

Layout = tuple[Placement, ...]
"""Placements of one tensor, one for each mesh axis, outermost axis first."""


def S(dim: int, parts: Sequence[int] = ()) -> Placement:  # noqa: N802
    """Shard along tensor dimension `dim`.

    Parameters
    ----------
    dim : int
        Counted from 0.
    parts : sequence of int
        Sizes of the parts that the dim is made of, each to be sharded.

    Raises
    ------
    ValueError
        For a dim that is counted from the end.

    Examples
    --------
    >>> S(0, [64, 16, 16])
    S(0:4+1+1)
    """
    if dim < 0:
        raise ValueError(f"a sharded dim is counted from 0, got {dim}")
    if len(parts) < 2:
        return Placement("S", dim)
    unit = math.gcd(*parts)
    return Placement("S", dim, parts=tuple(p // unit for p in parts))


def parse_placement(text: str) -> Placement:
    """Parse what ``str(placement)`` prints.

    Raises
    ------
    ValueError
        When `text` is no placement.

    Examples
    --------
    >>> parse_placement("S(1)")
    S(1)
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no placement; write R, V, P or S(dim)")
    if match[2] is not None:
        parts = match[3].split("+") if match[3] else ()
        return S(int(match[2]), [int(p) for p in parts])
    return Placement(text.strip()[0], reduce=match[1] or "sum")


def format_layout(layout: Sequence[Placement]) -> str:
    """Print a layout, ``"S(0) R"`` for two axes."""
    return " ".join(map(str, layout))


def parse_layout(text: str) -> Layout:
    """Parse what :func:`format_layout` prints."""
    return tuple(parse_placement(part) for part in text.split())


def local_shape(shape: Sequence[int], layout: Sequence[Placement],
                sizes: Sequence[int | Fraction]) -> tuple[int, ...]:
    """The shape that a rank holds.

    Parameters
    ----------
    shape : sequence of int
        The global shape.
    layout : sequence of Placement
        One placement per mesh axis.
    sizes : sequence of int or Fraction
        The axes' sizes, or what divides this rank's dims where shares of
        the batch are unequal (:mod:`planner.ir.shares`).

    Raises
    ------
    ValueError
        When a sharded dim is not divisible by its axes.
    """
    return _local_shape(tuple(shape), tuple(layout), tuple(sizes))


@functools.lru_cache(maxsize=65536)
def _local_shape(shape: tuple[int, ...], layout: Layout,
                 sizes: tuple[int | Fraction, ...]) -> tuple[int, ...]:
    """Layers share their shapes and layouts."""
    local = list(shape)
    for placement, size in zip(layout, sizes, strict=True):
        if placement.is_shard:
            # Of parts in proportion the least units must divide.
            units = sum(placement.parts) or 1
            if local[placement.dim] % (size * units):
                raise ValueError(
                    f"dim {placement.dim} of {tuple(shape)} does not divide "
                    f"over {size} ranks" +
                    (f" by parts, as {placement}" if placement.parts else ""))
            local[placement.dim] = int(local[placement.dim] // size)
    return tuple(local)
