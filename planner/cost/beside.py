"""What a call does before, between and after its products."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Beside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What kernels of a call do that products cannot hide.

    Parameters
    ----------
    size_bytes : int
        Read from and written to memory.
    evaluated : tuple of (str, int)
        Functions, as :mod:`planner.cost.elementwise` names them, and bytes
        over which they are evaluated.
    """

    size_bytes: int = 0
    evaluated: tuple[tuple[str, int], ...] = ()
