"""What is neither a kernel of a model nor a collective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from planner.profile.point import Point

__all__ = [
    "ADAMW_PASSES", "allocator_ratio", "dispatch_runner", "optimizer_runner"
]

ADAMW_PASSES = 7
"""Tensors that a step passes over: the parameter, its gradient and two
moments are read, all but the gradient written."""


def optimizer_runner(point: Point, device: torch.device) -> Callable[[], Any]:
    """One step of AdamW over some tensors of one size."""
    count, elements = point.sizes
    params = [
        nn.Parameter(
            torch.zeros(elements, dtype=point.torch_dtype, device=device))
        for _ in range(count)
    ]
    for param in params:
        param.grad = torch.full_like(param, 1e-3)
    fused = point.kind == "adamw_fused"
    return torch.optim.AdamW(params, fused=fused, foreach=not fused).step


def dispatch_runner(device: torch.device) -> Callable[[], Any]:
    """An operator whose time is the host's alone."""
    x = torch.ones(8, 8, device=device)
    out = torch.empty_like(x)
    return lambda: torch.add(x, x, out=out)


def allocator_ratio(device: torch.device, elements: int) -> float:
    """Peak of reserved over peak of allocated bytes in a small step.

    Parameters
    ----------
    device : torch.device
        An accelerator whose module counts its memory.
    elements : int
        Of each activation.

    Raises
    ------
    RuntimeError
        When it does not.
    """
    module = torch.get_device_module(device.type)
    if not hasattr(module, "max_memory_reserved"):
        raise RuntimeError(f"{device.type} does not count reserved memory")
    module.empty_cache()
    module.reset_peak_memory_stats()
    width = 1024
    layers = [nn.Linear(width, width, device=device) for _ in range(4)]
    # Sizes that differ leave gaps, as those of models do.
    for rows in (elements // width, elements // width * 3 // 4):
        x = torch.ones(rows, width, device=device)
        for layer in layers:
            x = nn.functional.gelu(layer(x))
        x.sum().backward()
    module.synchronize()
    return float(module.max_memory_reserved()) / max(
        float(module.max_memory_allocated()), 1.0)
