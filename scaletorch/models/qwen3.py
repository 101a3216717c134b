"""Qwen3: Llama's decoder with normalised queries and keys.

Source: Yang et al., "Qwen3 Technical Report", 2025 (table 1), and the
released configs for widths.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaletorch.models.llama import Llama, LlamaConfig
from scaletorch.models.registry import register

__all__ = ["Qwen3", "Qwen3Config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """The size of a Qwen3; see `LlamaConfig`."""

    head_dim: int | None = 128
    rotary_theta: float = 1_000_000.0
    norm_epsilon: float = 1e-6

    @property
    def head_norm(self) -> bool:
        return True


class Qwen3(Llama):
    """The language model."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)


def _size(width: int, depth: int, heads: int, hidden_width: int,
          tied: bool) -> Qwen3Config:
    return Qwen3Config(vocabulary_size=151_936,
                       width=width,
                       depth=depth,
                       heads=heads,
                       kv_heads=8,
                       hidden_width=hidden_width,
                       context=32_768,
                       tied=tied)


register(
    Qwen3, {
        "qwen3-0.6b": _size(1024, 28, 16, 3072, True),
        "qwen3-1.7b": _size(2048, 28, 16, 6144, True),
        "qwen3-4b": _size(2560, 36, 32, 9728, True),
        "qwen3-8b": _size(4096, 36, 32, 12_288, False),
        "qwen3-14b": _size(5120, 40, 40, 17_408, False),
        "qwen3-32b": _size(5120, 64, 64, 25_600, False),
    })
