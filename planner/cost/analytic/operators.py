"""The operators that a transformer's layers are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.analytic.configurations import Configurations

__all__ = [
    "ELEMENT_BYTES", "HEAD_WIDTH", "Operator", "elementwise", "halvings",
    "linear"
]

Number = Any
ELEMENT_BYTES = 2
"""Bytes of an element of an activation."""
HEAD_WIDTH = 128
"""Elements of a head, in which a device's rate of attention is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator on one rank, for one micro-batch.

    The backward's numbers are given where they are not twice the
    forward's.

    Parameters
    ----------
    name, kind : str
        `kind` is ``linear``, ``matmul``, ``attention`` or ``memory``.
    flops, size_bytes, kernels : number or array
    backward_flops, backward_bytes : number or array, optional
    halvings : number or array
        How often 64 has to be halved until it divides the product's width.
    unaligned : bool or array
        Whether rows are no multiple of 16 bytes, of many small products.
    summed, backward_summed : number or array
        Length of the sums that products make, each product's added up; 0
        where a product fills the device however it is divided.
    weighted : bool
        Whether half of the backward makes the gradient of a weight.
    keys, head_width : number or array
        Of attention: how many keys a query meets in the mean, and the width
        of its heads, keys and values taken together.
    """

    name: str
    kind: str
    flops: Number
    size_bytes: Number
    kernels: Number = 1
    backward_flops: Number = None
    backward_bytes: Number = None
    halvings: Number = 0
    unaligned: Number = False
    summed: Number = 0
    backward_summed: Number = 0
    weighted: bool = False
    keys: Number = np.inf
    head_width: Number = HEAD_WIDTH

    @property
    def in_backward(self) -> tuple[Number, Number, Number]:
        """Flops, bytes and kernels of the backward."""
        flops, size_bytes = self.backward_flops, self.backward_bytes
        return (2 * self.flops if flops is None else flops,
                2 * self.size_bytes if size_bytes is None else size_bytes,
                2 * self.kernels)


def halvings(width: Number) -> Number:
    """How often 64 has to be halved until it divides `width`.

    A width that is no whole number comes from sizes that do not belong to
    each other, and counts as one that 64 divides.

    Examples
    --------
    >>> [int(halvings(n)) for n in (128, 144, 150, 150.4)]
    [0, 2, 5, 0]
    """
    number = np.asarray(width)
    whole = number.astype(np.int64)
    return np.where(whole == number, 6 - np.log2(np.gcd(whole, 64)), 0.0)


def linear(name: str, tokens: Number, weight: Number, width: Number,
           plan: Configurations, inner: Number, summed: Number) -> Operator:
    """Rows times a weight.

    For products in 8 bits what comes in, and in the backward its gradient,
    is read in 16 and written twice in 8, the second time transposed. With a
    scale for each row both are casts of their own, after the largest of
    each row is found.

    Parameters
    ----------
    name : str
    tokens : number or array
        Rows.
    weight : number or array
        Elements of the local weight.
    width : number or array
        Elements that one row reads and writes.
    plan : Configurations
    inner : number or array
        The local width of the weight.
    summed : number or array
        Elements that one row reads.
    """
    few = np.less(plan.linear_bits, 16)
    made = width - summed
    operand = np.where(few, 1, ELEMENT_BYTES)
    moved = (operand * (weight + tokens * summed) +
             ELEMENT_BYTES * tokens * made)
    backward = (operand * (weight + tokens * (made + width)) + ELEMENT_BYTES *
                (weight + tokens * summed))
    each = np.where(plan.row_scales, 2 * (2 * ELEMENT_BYTES + 1),
                    ELEMENT_BYTES + 2)
    cast = np.where(few, each * tokens, 0.0)
    return Operator(name=name,
                    kind="linear",
                    flops=2 * tokens * weight,
                    size_bytes=moved + cast * summed,
                    backward_bytes=backward + cast * made,
                    kernels=np.where(few, 2, 1),
                    halvings=halvings(inner),
                    summed=summed,
                    backward_summed=width - summed + tokens,
                    weighted=True)


def elementwise(name: str, elements: Number, passes: Number,
                kernels: Number) -> Operator:
    """Kernels that only move memory, their backward half as much again.

    Parameters
    ----------
    name : str
    elements : number or array
    passes : number or array
        How often each element is read or written.
    kernels : number or array
        Launches.
    """
    return Operator(name=name,
                    kind="memory",
                    flops=0.0,
                    size_bytes=ELEMENT_BYTES * elements * passes,
                    kernels=kernels,
                    backward_bytes=ELEMENT_BYTES * elements * passes * 1.5)
