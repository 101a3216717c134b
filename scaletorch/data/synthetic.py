"""Made-up samples, for tests, benchmarks and first runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scaletorch.data.options import check_least
from scaletorch.data.registry import register
from scaletorch.data.source import Sample

__all__ = ["RandomImages", "RandomTokens"]


@register("random_tokens")
class RandomTokens:
    """Sequences of random tokens with something in them to learn.

    Every token is followed by one of few others.

    Parameters
    ----------
    length : int
        Number of samples.
    sequence_length, vocabulary_size : int
    choices : int
        How many tokens may follow a token; the loss of a model that has
        learnt everything is their logarithm.
    seed : int
    """

    def __init__(self,
                 *,
                 length: int = 1024,
                 sequence_length: int,
                 vocabulary_size: int,
                 choices: int = 2,
                 seed: int = 0) -> None:
        check_least(0, seed=seed)
        check_least(1,
                    length=length,
                    sequence_length=sequence_length,
                    vocabulary_size=vocabulary_size,
                    choices=choices)
        self._length = length
        self._shape = sequence_length
        self._size = vocabulary_size
        self._choices = choices
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        draw = np.random.default_rng((self._seed, index))
        steps = draw.integers(0, self._choices, self._shape)
        tokens = np.empty(self._shape, np.int64)
        token = int(draw.integers(0, self._size))
        for place, step in enumerate(steps.tolist()):
            tokens[place] = token
            token = (5 * token + 7 * step + 3) % self._size
        found = torch.from_numpy(tokens)
        return {"tokens": found, "labels": found.clone()}


@register("random_images")
class RandomImages:
    """Noise around one pattern for each class.

    Parameters
    ----------
    length : int
        Number of samples.
    shape : sequence of int
        Channels, height and width.
    classes : int
    noise : float
        Its standard deviation; that of the patterns is 1.
    seed : int
    """

    def __init__(self,
                 *,
                 length: int = 1024,
                 shape: Sequence[int] = (3, 32, 32),
                 classes: int = 10,
                 noise: float = 0.5,
                 seed: int = 0) -> None:
        check_least(0, seed=seed)
        check_least(1, length=length, classes=classes)
        self._length = length
        self._shape = tuple(shape)
        self._classes = classes
        self._noise = noise
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        draw = np.random.default_rng((self._seed, index))
        label = int(draw.integers(0, self._classes))
        pattern = np.random.default_rng((self._seed, label, 1))
        image = (pattern.standard_normal(self._shape, np.float32) +
                 np.float32(self._noise) *
                 draw.standard_normal(self._shape, np.float32))
        return {
            "images": torch.from_numpy(image),
            "labels": torch.tensor(label)
        }
