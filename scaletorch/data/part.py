"""Samples for training, and others for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from scaletorch.data.source import Augmented, Sample, Source

__all__ = ["part_of"]


def part_of(source: Source | Augmented,
            part: Sequence[float]) -> Source | Augmented:
    """A range of a source's samples, by fractions of their number.

    Parameters
    ----------
    source : Source or Augmented
    part : two floats
        Where it starts and ends, from 0 to 1. Parts that meet at a
        fraction share no sample and leave none out.

    Raises
    ------
    ValueError
        For what is no such range.

    Examples
    --------
    >>> list(part_of([1, 2, 3, 4], [0.5, 1]))
    [3, 4]
    """
    if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
        raise ValueError("part must be two fractions such as [0, 0.9], "
                         f"got {part!r}")
    start, stop = (round(p * len(source)) for p in part)
    if isinstance(source, Augmented):
        return _AugmentedPart(source, start, stop)
    return _Part(source, start, stop)


class _Part:

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source = source
        self._range = range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._range[index]]


class _AugmentedPart:

    def __init__(self, source: Augmented, start: int, stop: int) -> None:
        self._source = source
        self._range = range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def augmented(self, index: int, seed: int) -> Sample:
        """A sample as it looks under a seed."""
        return self._source.augmented(self._range[index], seed)
