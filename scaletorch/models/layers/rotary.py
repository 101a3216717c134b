"""Rotary position embeddings.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position
Embedding", 2021; the halves of a head are the two coordinates, as in
Hugging Face's checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["Rotation", "RotaryScaling", "Yarn", "rotated", "rotation"]

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, each of shape (sequence, head_dim), or (batch, 1,
sequence, head_dim) where each sequence has places of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryScaling:
    """How Llama 3.1 stretches the low frequencies to a longer context.

    Parameters
    ----------
    factor : float
        By which frequencies with long waves are divided.
    low_frequency_factor, high_frequency_factor : float
        Waves longer than ``original_context / low_frequency_factor`` are
        stretched, those shorter than ``original_context /
        high_frequency_factor`` stay, and those between are blended.
    original_context : int
        In tokens.

    Source: the Llama 3.1 release (``use_scaled_rope``).
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                "RotaryScaling needs 0 < low_frequency_factor < "
                f"high_frequency_factor, got {self.low_frequency_factor} and "
                f"{self.high_frequency_factor}")

    def stretched(self, frequencies: torch.Tensor,
                  theta: float) -> torch.Tensor:
        """The frequencies of a head's pairs, the low ones divided."""
        del theta
        waves = self.original_context * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        keep = ((waves - low) / (high - low)).clamp(0.0, 1.0)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """How DeepSeek stretches the low frequencies to a longer context.

    Parameters
    ----------
    factor : float
        By which frequencies with few turns are divided.
    fast, slow : float
        Pairs that turn more often than `fast` over the original context
        stay, those that turn less than `slow` times are stretched, and
        those between are blended by their place in the head.
    original_context : int
        In tokens.
    scale : float
        How much products of queries and keys grow with the factor.

    Source: Peng et al., "YaRN: Efficient Context Window Extension of Large
    Language Models", 2023.
    """

    factor: float = 40.0
    fast: float = 32.0
    slow: float = 1.0
    original_context: int = 4096
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (self.factor >= 1 and 0 < self.slow < self.fast):
            raise ValueError("Yarn needs factor >= 1 and 0 < slow < fast, got "
                             f"{self.factor}, {self.slow} and {self.fast}")

    def stretched(self, frequencies: torch.Tensor,
                  theta: float) -> torch.Tensor:
        """The frequencies of a head's pairs, the low ones divided.

        They are powers of `theta`, evenly spaced in their logarithm.
        """
        count = len(frequencies)
        first, last = (count * math.log(self.original_context /
                                        (2 * math.pi * turns)) /
                       math.log(theta) for turns in (self.fast, self.slow))
        low, high = max(math.floor(first), 0), min(math.ceil(last),
                                                   2 * count - 1)
        places = torch.arange(count,
                              dtype=frequencies.dtype,
                              device=frequencies.device)
        stretch = ((places - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
        return frequencies * (1 - stretch + stretch / self.factor)

    @property
    def product_scale(self) -> float:
        """By which products of queries and keys are multiplied."""
        return (0.1 * self.scale * math.log(self.factor) + 1.0)**2


def rotation(length: int,
             head_dim: int,
             *,
             theta: float,
             scaling: RotaryScaling | Yarn | None,
             like: torch.Tensor,
             places: torch.Tensor | None = None) -> Rotation:
    """Cosines and sines of places in a sequence.

    Computed in float32, then cast. Nothing is stored: a model has no buffer
    for it.

    Parameters
    ----------
    length : int
        Of the sequence.
    head_dim : int
        Elements of a head that turn, an even number.
    theta : float
        Base of the frequencies, which go from 1 nearly to ``1 / theta``.
    scaling : RotaryScaling or Yarn, optional
    like : Tensor
        Whose dtype and device the results have.
    places : Tensor, optional
        Of shape (batch, sequence), where several documents lie in a
        sequence; left out, the first `length` places.

    Returns
    -------
    cosines, sines : Tensor
        Of shape (length, head_dim), or (batch, 1, sequence, head_dim) of
        `places`.
    """
    even = torch.arange(0,
                        head_dim,
                        2,
                        dtype=torch.float32,
                        device=like.device)
    frequencies = theta**(-even / head_dim)
    if scaling is not None:
        frequencies = scaling.stretched(frequencies, theta)
    if places is None:
        places = torch.arange(length, dtype=torch.float32, device=like.device)
    else:
        places = places.unsqueeze(1).to(torch.float32)
    angles = places.unsqueeze(-1) * frequencies
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotated(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Heads (batch, head, sequence, head_dim), each turned by its place."""
    cosines, sines = rotation
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines
