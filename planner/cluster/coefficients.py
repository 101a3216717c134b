"""Names of the calibrated numbers of a device, and what each says.

A number under any other name would never be read, so that devices refuse
it. ``doc/reference.md`` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch

from planner.names import nearest

__all__ = [
    "COEFFICIENTS", "EFFICIENCIES", "FUNCTIONS", "check_coefficients",
    "check_efficiencies", "efficiency_of"
]

EFFICIENCIES: Mapping[str, str] = MappingProxyType({
    "matmul":
    "Products; stands in for the other products where they are left out.",
    "attention":
    "Fused attention.",
    "first_attention":
    "FlashAttention of the first kind, in published runs.",
    "second_attention":
    "PyTorch's own fused attention, FlashAttention-2; else `attention`.",
    "convolution":
    "Convolutions.",
    "matmul8":
    "Products in 8 bits, of the peak in float8.",
    "matmul4":
    "Products in 4 bits, of the peak in float4.",
    "unaligned":
    "Products whose widths no unit for products takes, of the peak in "
    "float32.",
    "memory":
    "The memory's bandwidth.",
})
"""Shares of a peak that are reached."""

_BY_DTYPE = ("attention", "convolution", "matmul", "second_attention")
"""Those that may be another in one dtype, as in ``attention_bfloat16``."""

FUNCTIONS = ("cross_entropy", "gelu", "layer_norm", "rms_norm", "silu",
             "softmax")
"""What takes a device longer than moving the bytes does."""

COEFFICIENTS: Mapping[str, str] = MappingProxyType({
    "exposed":
    "Share of the shorter of computing and moving that adds to the longer.",
    "cache_bytes":
    "Of each kernel's bytes, so many are moved at the cache's rate.",
    "cache_bytes_per_s":
    "The cache's rate.",
    "wave_elements":
    "Elements that all units write at once: the last wave of a product "
    "takes as long as a full one.",
    "misaligned":
    "What products take longer for each halving of the alignment of "
    "their widths.",
    "attention_backward":
    "The backward's rate of attention over the forward's.",
    "half_keys":
    "Keys with which attention has half of its rate.",
    "exponentials":
    "Share of attention that goes with exponentials, not with products.",
    **{
        f"{name}{way}_s_per_byte":
        f"What {name}'s {which} takes longer for a byte than moving it."
        for name in FUNCTIONS
        for way, which in (("", "forward"), ("_backward", "backward"))
    },
    "dispatch_s":
    "The host's time to launch a kernel or a message.",
    "queue_order":
    "Order of the norm of the host's and the device's time.",
    "view_s":
    "The host's time for an operator that only makes another view.",
    "call_s":
    "A call of a module and its backward.",
    "call_parameter_s":
    "The same for each trained parameter of the module.",
    "message_s":
    "What one message keeps the ranks that it leaves and reaches busy.",
    "interference":
    "By how much computing is slower while a message is on its way.",
    "straggling":
    "How far apart ranks are, as a share of what they computed.",
    "straggling_limit_s":
    "How far apart ranks are at most.",
    "alone_speedup":
    "How many times as fast a rank is while all others wait.",
    "collective_share":
    "Rate of the collectives of a step over a benchmark's.",
    "point_share":
    "Rate of the messages between stages over a benchmark's.",
    "variation":
    "Standard deviation of devices' times over their mean.",
    "adamw_fused_share":
    "Share of the memory's bandwidth in a step of fused AdamW.",
    "adamw_fused_parameter_s":
    "Time of a step of fused AdamW for each parameter.",
    "adamw_foreach_share":
    "The share of AdamW without fusion; measured, and told beside the fused "
    "one.",
    "adamw_foreach_parameter_s":
    "The time of AdamW without fusion for each parameter; measured, and told "
    "beside the fused one.",
    "allocator_ratio":
    "Reserved over allocated bytes; measured, and told.",
})
"""Numbers that are no shares of a peak."""


def efficiency_of(name: str) -> str:
    """The efficiency that a name states, for one dtype or for all.

    Examples
    --------
    >>> efficiency_of("attention_bfloat16")
    'attention'
    >>> efficiency_of("attention_bf16")
    'attention_bf16'
    >>> efficiency_of("float32")
    'float32'
    """
    for known in _BY_DTYPE:
        start, _, dtype = name.partition(f"{known}_")
        if not start and isinstance(getattr(torch, dtype, None), torch.dtype):
            return known
    return name


def check_efficiencies(where: str, names: Iterable[str]) -> None:
    """Refuse shares of a peak that nothing reads.

    Raises
    ------
    ValueError
        With the nearest name, and all that there are.
    """
    for name in names:
        if efficiency_of(name) not in EFFICIENCIES:
            raise ValueError(
                _refusal(where, "efficiencies", name, EFFICIENCIES,
                         ("coefficients", COEFFICIENTS)) +
                f"; {', '.join(_BY_DTYPE)} also of one dtype, as in "
                "attention_bfloat16")


def check_coefficients(where: str, names: Iterable[str]) -> None:
    """Refuse other numbers that nothing reads.

    Raises
    ------
    ValueError
        With the nearest name, and all that there are.
    """
    for name in names:
        if name not in COEFFICIENTS:
            raise ValueError(
                _refusal(where, "coefficients", name, COEFFICIENTS,
                         ("efficiencies", EFFICIENCIES)))


def _refusal(where: str, field: str, name: str, known: Mapping[str, str],
             other: tuple[str, Mapping[str, str]]) -> str:
    title, names = other
    hint = (f"it is one of {title}" if efficiency_of(name) in names else
            nearest(name, known).removesuffix("?"))
    listed = "" if hint.startswith("known") else (
        f" (known names: {', '.join(sorted(known))})")
    return f"{where}: {field} has unknown name {name!r}; {hint}{listed}"
