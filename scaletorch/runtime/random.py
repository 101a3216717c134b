"""Random calls with a stream of their own.

A call's numbers depend on the step's seed, on the block and place of the
call and on the shard it computes, not on what was drawn before. So ranks
that compute the same thing draw the same numbers, ranks with different
shards draw different ones, and recomputation draws what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from planner.seeded import seeded
from planner.steady import STEADY

__all__ = ["SeededCall", "mix", "seeded"]


def mix(seed: int, salt: int) -> int:
    """Combine two numbers into a seed (splitmix64's finaliser)."""
    if seed == STEADY:
        return STEADY
    z = (seed * 0x9E3779B97F4A7C15 + salt) & ((1 << 64) - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
    return (z ^ (z >> 31)) & ((1 << 63) - 1)


class SeededCall:
    """An operator that runs under a seed and leaves torch's own alone."""

    def __init__(self, target: Callable[..., Any], salt: int) -> None:
        self.target = target
        self.salt = salt
        self.__name__ = f"seeded_{getattr(target, '__name__', 'call')}"
        self.__qualname__ = self.__name__
        self.__module__ = __name__

    def __call__(self, seed: int, *args: Any, **kwargs: Any) -> Any:
        with seeded(mix(seed, self.salt), _device_of(args, kwargs)):
            return self.target(*args, **kwargs)


def _device_of(args: Any, kwargs: Any) -> torch.device:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device
        if isinstance(value, torch.device):
            return value
    return torch.device("cpu")
