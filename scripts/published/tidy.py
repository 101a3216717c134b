"""Bring what rows of published runs say into one form, or say why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from scripts.published.case import Unreadable
from scripts.published.words import recomputed, sharded

__all__ = ["tidy"]

_SECTIONS = ("source", "hardware", "model", "parallel", "measured")
_WHOLE: Mapping[str, tuple[str, ...]] = {
    "": ("global_batch", "micro_batch", "grad_accum", "local_batch"),
    "hardware": ("count", "gpus_per_node"),
    "model":
    ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab",
     "seq", "experts", "top_k", "moe_ffn", "expert_ffn", "shared_expert_ffn",
     "dense_layers", "encoder_layers", "decoder_layers", "q_lora_rank",
     "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    "parallel": ("tp", "cp", "dp", "pp", "ep", "etp", "vpp", "fsdp"),
}
_SIGNED = ("zero1_group", "fsdp_group")  # -1 is all
_RATES = ("iteration_time_s", "iteration_time_ms", "tokens_per_s_per_gpu",
          "tokens_per_s", "sequences_per_s", "samples_per_s",
          "model_tflops_per_gpu", "hw_tflops_per_gpu", "tflops_per_gpu",
          "peak_mem_bytes", "peak_mem_gib", "peak_mem_gb")
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "": ("cpu_offload", "torch_compile"),
    "model": ("gated_mlp", "gated", "untied_embeddings"),
    "parallel": ("sequence_parallel", "overlap_grad_reduce",
                 "overlap_param_gather", "tp_comm_overlap", "async_tp"),
    "measured": ("oom", ),
}
_YES = ("true", "yes", "on", "1", "enabled")
_NO = ("false", "no", "off", "0", "none", "disabled")
_MOST = 2**40
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


def tidy(row: Any) -> dict[str, Any]:
    """The row with mappings for sections and numbers for numbers.

    Numbers may be text (``"1,024"``, ``"250k"``), and so may be flags
    (``"no"``); what is empty or not a number counts as not stated. Of repeats
    the median is taken. What is sharded and recomputed has one name each.
    Unknown fields are left as they are.

    Raises
    ------
    Unreadable
        For a row or a section of another kind, for sizes that are no whole
        numbers or negative, and for flags that are neither yes nor no.
    """
    if not isinstance(row, Mapping):
        raise Unreadable(f"the row is no mapping but {row!r}")
    found = dict(row)
    for name in _SECTIONS:
        found[name] = _section(found.get(name), name)
    for name, fields in _WHOLE.items():
        table = found[name] if name else found
        for field in fields:
            _replace(table, field, _whole(table.get(field), field))
    for name, fields in _FLAGS.items():
        table = found[name] if name else found
        for field in fields:
            _replace(table, field, _flag(table.get(field), field))
    _replace(found, "recompute", _word(found.get("recompute"), recomputed))
    _replace(found["parallel"], "sharding",
             _word(found["parallel"].get("sharding"), sharded))
    for field in _SIGNED:
        group = _number(found["parallel"].get(field), field)
        if group is not None and not abs(group) <= _MOST:
            raise Unreadable(f"{field} is no number of devices: {group!r}")
        _replace(found["parallel"], field,
                 None if group is None else int(group))
    for field in _RATES:
        measured = found["measured"]
        _replace(measured, field, _rate(measured.get(field), field))
    return found


def _section(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if name == "source":
        return {"name": str(value)}
    raise Unreadable(f"{name} is no mapping but {value!r}")


def _replace(table: dict[str, Any], field: str, value: Any) -> None:
    """Without a field for what is not stated."""
    if value is None:
        table.pop(field, None)
    else:
        table[field] = value


def _number(value: Any, field: str) -> float | None:
    if isinstance(value, str):
        text = value.strip().lower().replace(",", "").replace("_", "")
        unit = _UNITS.get(text[-1:], 1.0)
        text = text[:-1] if text[-1:] in _UNITS else text
        if not text:
            return None
        try:
            value = unit * float(text)
        except ValueError:
            raise Unreadable(f"{field} is no number: {value!r}") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"{field} is no number: {value!r}")
    return None if math.isnan(value) else float(value)


def _whole(value: Any, field: str) -> int | None:
    number = _number(value, field)
    if number is None:
        return None
    if not 0 <= number <= _MOST or number != int(number):
        raise Unreadable(f"{field} is no whole number of things: {value!r}")
    return int(number)


def _flag(value: Any, field: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if not word:
        return None
    if word not in (*_YES, *_NO):
        raise Unreadable(f"{field} is neither yes nor no: {value!r}")
    return word in _YES


def _word(value: Any, known: Callable[[str], str]) -> str | None:
    text = "" if value is None else str(value).strip()
    return known(text) if text else None


def _rate(value: Any, field: str) -> float | None:
    """A positive number; the median of a list of repeats."""
    several = value if isinstance(value, list) else [value]
    numbers = [_number(v, field) for v in several]
    known = [n for n in numbers if n is not None]
    if not known:
        return None
    if any(n <= 0 or math.isinf(n) for n in known):
        raise Unreadable(f"{field} must be more than nothing: {value!r}")
    return median(known)
