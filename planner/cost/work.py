"""What a call does on one device that has all of it."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cost.beside import Beside
from planner.cost.saved import Saved

__all__ = ["Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one call does, whole, without any sharding.

    Parameters
    ----------
    kind : str
        Which efficiency the flops have: ``matmul``, ``attention``,
        ``convolution``; ``memory`` when only bytes matter.
    forward_flops, backward_flops : float
        Of products only, as PyTorch's flop counter counts (except that
        what a causal kernel skips is not counted).
    forward_bytes, backward_bytes : int
        Read from and written to memory.
    forward_kernels, backward_kernels : int
        Launches.
    saved : Saved
        What the backward keeps, by position.
    saved_bytes : int
        Bytes of that.
    keys : float
        Of attention: how many keys a query meets in the mean.
    function : str
        What is evaluated at every element, see :func:`function_name`.
    forward_views, backward_views : int
        Operators that only make another view; each costs the coefficient
        ``view_s``, which is nothing where a host runs ahead of its device.
    factors : tuple of int
        Which tensors a product multiplies.
    results : tuple of int
        Elements of what its kernels make: of the product, then of the
        gradient of each factor, 0 for one that has none.
    forward_beside, backward_beside : Beside
        Of kernels that run before and after its products, where it has such.
    """

    kind: str = "memory"
    forward_flops: float = 0.0
    forward_bytes: int = 0
    forward_kernels: int = 0
    backward_flops: float = 0.0
    backward_bytes: int = 0
    backward_kernels: int = 0
    saved: Saved = Saved()
    saved_bytes: int = 0
    keys: float = 0.0
    function: str = ""
    forward_views: int = 0
    backward_views: int = 0
    factors: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    forward_beside: Beside = Beside()
    backward_beside: Beside = Beside()
