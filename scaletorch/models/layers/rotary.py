"""Rotary position embeddings.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position
Embedding", 2021; the halves of a head are the two coordinates, as in
Hugging Face's checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["Rotation", "RotaryScaling", "rotated", "rotation"]

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, each of shape (sequence, head_dim)."""


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


def rotation(length: int, head_dim: int, *, theta: float,
             scaling: RotaryScaling | None, like: torch.Tensor) -> Rotation:
    """Cosines and sines of the first `length` places.

    Computed in float32, then cast to the dtype of `like` and on its device.
    Nothing is stored: a model has no buffer for it.
    """
    even = torch.arange(0,
                        head_dim,
                        2,
                        dtype=torch.float32,
                        device=like.device)
    frequencies = theta**(-even / head_dim)
    if scaling is not None:
        frequencies = _stretched(frequencies, scaling)
    places = torch.arange(length, dtype=torch.float32, device=like.device)
    angles = places[:, None] * frequencies
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _stretched(frequencies: torch.Tensor,
               scaling: RotaryScaling) -> torch.Tensor:
    waves = scaling.original_context * frequencies / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    keep = ((waves - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (keep + (1 - keep) / scaling.factor)


def rotated(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Heads (batch, head, sequence, head_dim), each turned by its place."""
    cosines, sines = rotation
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines
