"""One operator call for the numeric check of its rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Case", "case", "flags", "ints", "normal", "positive"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call with real tensors.

    Parameters
    ----------
    values : bool
        False where only shapes are compared.
    least : int
        How many options beside the two that every operator has are
        expected at least, over two ranks.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    values: bool = True
    least: int = 1
    tolerance: float = 1e-9

    def __str__(self) -> str:
        shapes = [
            tuple(a.shape) if isinstance(a, torch.Tensor) else a
            for a in self.args
        ]
        return f"{self.op}{shapes}"


def case(op: Any,
         *args: Any,
         values: bool = True,
         least: int = 1,
         tolerance: float = 1e-9,
         **kwargs: Any) -> Case:
    return Case(op=op,
                args=args,
                kwargs=kwargs,
                values=values,
                least=least,
                tolerance=tolerance)


def _generator(shape: tuple[int, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(sum(shape) + len(shape))


def normal(*shape: int) -> torch.Tensor:
    """Normal float64 values that require a gradient."""
    return torch.randn(shape, dtype=torch.float64,
                       generator=_generator(shape)).requires_grad_()


def positive(*shape: int) -> torch.Tensor:
    """Values in (0.1, 0.9)."""
    values = torch.rand(shape,
                        dtype=torch.float64,
                        generator=_generator(shape))
    return (0.1 + 0.8 * values).requires_grad_()


def ints(high: int, *shape: int) -> torch.Tensor:
    """Numbers in [0, high)."""
    return torch.randint(high, shape, generator=_generator(shape))


def flags(*shape: int) -> torch.Tensor:
    """Random truth values."""
    return ints(2, *shape).bool()
