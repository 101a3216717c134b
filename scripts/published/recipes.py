"""What recipes say that libraries publish with their performance.

Rows of such tables state sizes and precisions; how rows travel to experts,
what runs beside what and what is recomputed is in the recipes that the
tables were made with, which lie in the libraries' repositories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scripts.published.words import gpu_of, linear_bits, test_name

__all__ = [
    "BLACKWELL", "has_narrow_attention", "has_plain_exchange", "is_gpt_oss",
    "is_graphed", "is_unfused", "repeats_a_layer"
]

_RACKS = ("GB200", "GB300")
BLACKWELL = (*_RACKS, "B300")
"""Devices that Megatron-Bridge has its newest recipes for mixtures for."""
_GRAPHED = (26, 6)
_NODE = 8


def is_graphed(row: Mapping[str, Any]) -> bool:
    """Whether a mixture is run by one of the recipes that Megatron-Bridge
    has from its release of June 2026 on for Blackwell devices in 8 bits:
    whole steps are one graph, experts' products evaluate their gates, and
    rows travel to experts beside another micro-batch.

    Kimi's took two sequences at once until it was one of them, too.
    """
    release = re.match(r"(\d\d)\.(\d\d)\b",
                       str((row.get("source") or {}).get("table")))
    late = "kimi" in test_name(row).lower() and row.get("micro_batch") != 1
    return bool(
        gpu_of(row).startswith(BLACKWELL)
        and int(row["parallel"].get("ep") or 1) > 1 and linear_bits(row) < 16
        and not late and release
        and (int(release[1]), int(release[2])) >= _GRAPHED)


def is_gpt_oss(row: Mapping[str, Any]) -> bool:
    """Whether its model is one of GPT-OSS, whose experts have biases."""
    return "gpt oss" in test_name(row).lower()


def has_narrow_attention(row: Mapping[str, Any]) -> bool:
    """Whether attention multiplies in 8 bits: those recipes do, but for
    DeepSeek's on GB200 and Qwen's."""
    name = test_name(row).lower()
    wide = "qwen" in name or ("deepseek" in name
                              and gpu_of(row).startswith("GB200"))
    return is_graphed(row) and linear_bits(row) == 8 and not wide


def has_plain_exchange(row: Mapping[str, Any]) -> bool:
    """Whether rows travel to experts by the plain all-to-all of the library
    for collectives: Megatron-Bridge's recipes for GPT-OSS in 16 bits do, and
    those for Qwen3 on nodes of eight, but for its smaller model on several
    H100 nodes and on Blackwell."""
    name, gpu = test_name(row).lower(), gpu_of(row)
    if is_gpt_oss(row):
        return linear_bits(row) == 16
    small = "30b" in name and (not gpu.startswith("H")
                               or int(row["parallel"].get("ep") or 1) > _NODE)
    return "qwen3" in name and not gpu.startswith(_RACKS) and not small


def repeats_a_layer(row: Mapping[str, Any]) -> bool:
    """Whether a run compiles one layer and repeats it, recomputing all of
    it: Pax's recipes for GPT do, but for the smallest model."""
    return _is_pax_gpt(row) and "126m" not in test_name(row).lower()


def is_unfused(row: Mapping[str, Any]) -> bool:
    """Whether it is a run of those recipes without the library that has
    fused attention, which precisions name."""
    return _is_pax_gpt(row) and "TE" not in str(row.get("dtype")).split()


def _is_pax_gpt(row: Mapping[str, Any]) -> bool:
    file = str((row.get("source") or {}).get("file"))
    return "/pax/" in file and "gpt" in test_name(row).lower()
