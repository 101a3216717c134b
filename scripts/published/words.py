"""Single words of a published run that several readers need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["gpu_of", "is_half", "is_test", "linear_bits", "test_name"]


def gpu_of(row: Mapping[str, Any]) -> str:
    """What a row calls its devices, in capitals."""
    return str(row["hardware"].get("gpu")).upper()


def linear_bits(row: Mapping[str, Any]) -> int:
    """Width of what linear layers multiply: 16, 8 or 4."""
    dtype = str(row.get("dtype")).lower()
    if "fp4" in dtype:
        return 4
    return 8 if "fp8" in dtype or "float8" in dtype else 16


def is_half(row: Mapping[str, Any]) -> bool:
    """Whether numbers of 16 bits are those of the narrower range."""
    dtype = str(row.get("dtype")).lower()
    half = re.search(r"(?<!b)fp16|(?<!b)float16|\bhalf\b", dtype)
    return half is not None and linear_bits(row) == 16


def is_test(row: Mapping[str, Any]) -> bool:
    """Whether a run is one of Megatron-LM's own tests, which state the family
    of their model."""
    named = re.search("functional|golden", str(row.get("source")).lower())
    family = (row.get("model") or {}).get("family")
    return named is not None and family is not None


def test_name(row: Mapping[str, Any]) -> str:
    """The name of a row's model; tests of Megatron-LM have no such name but
    one of what they test."""
    return str(row["model"].get("name"))
