"""Which framework a published run used, as its row tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import FSDP

__all__ = [
    "has_copied_accumulation",
    "has_narrow_gradients",
    "has_partitioned_gradients",
    "is_eager",
    "is_megatron_of_2022",
    "is_plain",
    "is_plain_fsdp",
    "is_pure",
    "lacks_fused_attention",
]

_ALL_WIDE = "Rebalancing layers"


def is_eager(row: Mapping[str, Any]) -> bool:
    """Whether it is a framework to learn from, ScaleTorch or Picotron: with
    eager kernels, logits gathered for the loss, and PyTorch's optimizer on
    parameters of 16 bits without copies in 32."""
    return bool(re.search("scaletorch|picotron", str(row["source"]), re.I))


def is_plain(row: Mapping[str, Any]) -> bool:
    """Whether the run is PyTorch's own sharded data parallelism, with its
    own recomputation and attention, and not that of a library.

    Vendors' libraries call theirs the same; their summaries of performance
    say what task a run had.
    """
    sharding = str(row["parallel"].get("sharding"))
    return (sharding.startswith(("fsdp", "hsdp"))
            and not (row.get("transformer_impl") or row.get("task")))


def is_plain_fsdp(row: Mapping[str, Any], sharding: int) -> bool:
    """Whether parameters are sharded by PyTorch and layers are its own."""
    return sharding == FSDP and row.get("transformer_impl") is None


def is_megatron_of_2022(row: Mapping[str, Any]) -> bool:
    """Whether it is Megatron-LM since that has sequence parallelism and
    selective recomputation; Megatron-DeepSpeed is older."""
    if _is_of_2022(row):
        return True
    if is_plain(row) or "DeepSpeed" in str(row.get("notes")):
        return False
    return bool(row["parallel"].get("sequence_parallel")
                or row.get("transformer_impl")
                or row.get("recompute") == "selective")


def lacks_fused_attention(row: Mapping[str, Any]) -> bool:
    """Whether the software is known to: that of 2022, and the older container
    of one data center, as memory without it shows."""
    notes = str((row.get("hardware") or {}).get("notes"))
    return _is_of_2022(row) or ("lts" in notes and "oci" in notes)


def is_pure(row: Mapping[str, Any]) -> bool:
    """Whether it is Composer's "pure" precision, whose runs are of PyTorch
    1.13: recomputation has stopped early since PyTorch 2.0."""
    return str(row.get("mp_mode")) == "PURE"


def has_narrow_gradients(row: Mapping[str, Any]) -> bool:
    """Whether gradients are reduced in the 16 bits they are made in.

    Composer's "pure" precision does, and optimizers that shard their state
    over groups (ColossalAI's and what came of it).
    """
    return is_pure(row) or bool(row["parallel"].get("zero1_group"))


def has_copied_accumulation(row: Mapping[str, Any]) -> bool:
    """Whether gradients in 16 bits are kept beside sums in 32.

    DeepSpeed's optimizers for bfloat16 do, as rows say that use them.
    """
    return ("bf16 optimizer" in str(row.get("notes"))
            and str(row.get("dtype")).lower() in ("bf16", "bfloat16"))


def has_partitioned_gradients(row: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed's optimizer holds gradients in 16 bits, and has only
    those of its shard in 32.

    Its newer one for bfloat16 has all in 32 bits: the chronicle of BLOOM's
    runs says from which table on that was used.
    """
    sharding = str(row["parallel"].get("sharding"))
    table = str((row.get("source") or {}).get("table") or _ALL_WIDE)
    return (sharding in ("zero1", "zero2")
            and "DeepSpeed" in str(row.get("notes"))
            and not (has_copied_accumulation(row) and table == _ALL_WIDE))


def _is_of_2022(row: Mapping[str, Any]) -> bool:
    """Whether it is the Megatron-LM of 2022, which hides collectives behind
    its products and has no fused attention yet: that of Korthikanti et al.,
    "Reducing activation recomputation in large transformer models"."""
    source = " ".join(map(str, (row.get("source") or {}).values()))
    return bool(
        re.search(
            r"2205\.05198|korthikanti|reducing activation recomputation|"
            r"megatron\D*2022", source, re.I))
