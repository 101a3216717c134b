"""Single words of a published run that several readers need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["gpu_of", "linear_bits", "test_name"]


def gpu_of(row: Mapping[str, Any]) -> str:
    """What a row calls its devices, in capitals."""
    return str(row["hardware"].get("gpu")).upper()


def linear_bits(row: Mapping[str, Any]) -> int:
    """Width of what linear layers multiply: 16, 8 or 4."""
    dtype = str(row.get("dtype")).lower()
    if "fp4" in dtype:
        return 4
    return 8 if "fp8" in dtype or "float8" in dtype else 16


def test_name(row: Mapping[str, Any]) -> str:
    """The name of a row's model; tests of Megatron-LM have no such name but
    one of what they test."""
    return str(row["model"].get("name"))
