"""Single words of a published run that several readers need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "gpu_of", "is_half", "is_test", "linear_bits", "recomputed", "sharded",
    "test_name"
]

_RECOMPUTED = (
    ("none", ("none", "no", "false", "off", "disabled")),
    ("selective", ("selective", "core")),
    ("full", ("full", "true", "yes", "on", "uniform", "enabled", "activation",
              "gradient")),
)
_SHARDED = (
    ("ddp", ("none", "dp", "ddp", "replicated", "dataparallel")),
    ("zero1", ("os", "optimizer", "distopt", "distributedoptimizer",
               "optimizerstate", "optimizerstates")),
    ("zero2", ("osg", "shardgradop")),
    ("fsdp", ("osgp", "fullshard", "fullyshard")),
    ("hsdp", ("hybridshard", "hybrid")),
)


def gpu_of(row: Mapping[str, Any]) -> str:
    """What a row calls its devices, in capitals and without their vendor."""
    name = str(row["hardware"].get("gpu")).strip().upper()
    return re.sub(r"^((NVIDIA|DGX|HGX)[ _-]+)+", "", name)


def recomputed(text: str) -> str:
    """What is recomputed: "none", "selective" or "full"; any other text as it
    is, in lower case."""
    plain = text.strip().lower()
    word = re.split("[^a-z]+", plain)[0]
    if "offload" in plain:
        return plain
    return next((name for name, words in _RECOMPUTED if word in words), plain)


def sharded(text: str) -> str:
    """How state is sharded: "ddp", "zero1" to "zero3", or what starts with
    "fsdp" or "hsdp"; any other text as it is, in lower case."""
    plain = text.strip().lower()
    word = re.sub("[^a-z0-9]", "", plain)
    stage = re.search(r"(?:zero|stage|^(?=\d$))[a-z _-]*([0-3])(?!\d)", plain)
    if re.search("infinity|offload", plain):
        return plain
    if stage and not (stage[1] == "3" and word.startswith(("fsdp", "hsdp"))):
        return f"zero{stage[1]}"
    return next((name for name, words in _SHARDED if word in words), word)


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
