"""Descriptions that the tests of the formulas share."""

from __future__ import annotations

from typing import Any

from planner.cost.analytic.transformer import Transformer

__all__ = ["llama_8b"]


def llama_8b(**changes: Any) -> Transformer:
    """Llama 3 8B, or what `changes` make of it."""
    sizes: dict[str, Any] = dict(layers=32,
                                 hidden=4096,
                                 heads=32,
                                 kv_heads=8,
                                 qk_dim=128,
                                 v_dim=128,
                                 qkv_parameters=4096 * 128 * 48,
                                 ffn=14336,
                                 vocab=128256,
                                 seq=8192,
                                 gated=True)
    return Transformer(**{**sizes, **changes})
