"""From numbers to places on a chart, with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Scale", "scale_of"]

_WIDE = 15.0
"""From this ratio on a scale is logarithmic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Linear or logarithmic.

    Parameters
    ----------
    low, high : float
        Numbers at the two ends.
    start, end : float
        Their places.
    base : float
        Ticks are round in powers of it: 10, or 2 for bytes.
    log : bool
    """

    low: float
    high: float
    start: float
    end: float
    base: float = 10.0
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a number lies; one outside lies at the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log(value / self.low) /
                     math.log(self.high / self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round numbers inside, in order."""
        return (self._log_ticks(count)
                if self.log else self._linear_ticks(count))

    def _linear_ticks(self, count: int) -> list[float]:
        rough = (self.high - self.low) / count
        power = self.base**math.floor(math.log(rough, self.base))
        steps = (1, 2, 4) if self.base == 2 else (1, 2, 5, 10)
        step = power * next(
            (s for s in steps if s * power >= rough), steps[-1])
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        """Powers of the base, or between them 2 and 5 times those."""
        low = math.floor(math.log(self.low, self.base))
        high = math.ceil(math.log(self.high, self.base))
        parts = (1, ) if self.base == 2 or high - low > 2 else (1, 2, 5)
        every = max(1, (high - low) * len(parts) // (count + 2))
        found = [
            part * self.base**n for n in range(low, high + 1) for part in parts
        ]
        return [
            v for v in found[::every]
            if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)
        ]


def scale_of(values: list[float],
             *,
             start: float,
             end: float,
             base: float = 10.0) -> Scale:
    """A scale with some air around all values.

    It is logarithmic where they differ much.

    Parameters
    ----------
    values : list of float
        At least one.
    start, end : float
    base : float
    """
    low, high = min(values), max(values)
    wide = low > 0 and high / low > _WIDE
    if wide:
        low, high = low / 1.3, high * 1.3
    else:
        air = max(high - low, 0.1 * high, 1e-12) / 10
        low, high = low - air, high + air
    return Scale(low=low, high=high, start=start, end=end, base=base, log=wide)
