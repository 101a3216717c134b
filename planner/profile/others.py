"""What is neither a kernel of a model nor a collective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from planner.profile.point import Point

__all__ = [
    "allocator_ratio", "call_runner", "dispatch_runner", "optimizer_runner",
    "view_runner"
]


def optimizer_runner(point: Point, device: torch.device) -> Callable[[], Any]:
    """One step of AdamW over distributed tensors of one size.

    Raises
    ------
    RuntimeError
        Where no process group is up.
    """
    count, elements = point.sizes
    params = _distributed(count, (elements, ), point.torch_dtype, device)
    for param in params:
        param.grad = torch.full_like(param, 1e-3)
    fused = point.kind == "step_adamw_fused"
    return torch.optim.AdamW(params, fused=fused, foreach=not fused).step


def dispatch_runner(device: torch.device) -> Callable[[], Any]:
    """An operator whose time is the host's alone."""
    x = torch.ones(8, 8, device=device)
    out = torch.empty_like(x)
    return lambda: torch.add(x, x, out=out)


def view_runner(device: torch.device) -> Callable[[], Any]:
    """An operator that only makes another view."""
    x = torch.ones(8, 8, device=device)
    return lambda: torch.ops.aten.view.default(x, [4, 16])


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


def _distributed(count: int, shape: tuple[int, ...], dtype: torch.dtype,
                 device: torch.device) -> list[nn.Parameter]:
    """Parameters as those of a parallel module are."""
    if not torch.distributed.is_initialized():
        raise RuntimeError("distributed tensors need a process group")
    mesh = init_device_mesh(device.type,
                            (torch.distributed.get_world_size(), ))
    return [
        nn.Parameter(
            DTensor.from_local(torch.zeros(shape, dtype=dtype, device=device),
                               mesh, [Replicate()],
                               run_check=False)) for _ in range(count)
    ]


class _Passed(torch.autograd.Function):
    """Hands local gradients to distributed parameters, and does no more."""

    @staticmethod
    def forward(ctx: Any, *tensors: DTensor) -> torch.Tensor:
        ctx.tensors = tensors
        local = [t.to_local() for t in tensors]
        return local[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return tuple(
            DTensor.from_local(torch.empty_like(t.to_local()),
                               t.device_mesh,
                               t.placements,
                               run_check=False,
                               shape=t.shape,
                               stride=t.stride()) for t in ctx.tensors)


def call_runner(point: Point, device: torch.device) -> Callable[[], Any]:
    """A call of a parallel module and its backward, without any work.

    Raises
    ------
    RuntimeError
        Where no process group is up, which distributed tensors need.
    """
    (count, ) = point.sizes
    params = _distributed(count, (8, 8), point.torch_dtype, device)

    def run() -> None:
        _Passed.apply(*params).backward()
        for param in params:
            param.grad = None

    return run
