"""Measure the planner's finalists and keep the quickest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.capture.entry import Call
from scaletorch.choose import Chosen
from scaletorch.compare import backward_of
from scaletorch.module import ParallelModule
from scaletorch.runtime.agree import Agreement

__all__ = ["quickest"]

_WARMUP, _MEASURED = 1, 3


def quickest(build: Callable[[Chosen],
                             ParallelModule], finalists: Sequence[Chosen],
             call: Call, agreement: Agreement) -> ParallelModule:
    """The module of the plan whose slowest rank is the quickest.

    Each plan runs forward and backward a few times on the example inputs
    (zeros where they are on meta); the median counts. Parameters, buffers
    and random generators of the returned module are as if nothing ran.

    Parameters
    ----------
    build : callable
        From a finalist to a module.
    finalists : sequence of Chosen
        Best first; the same on all ranks.
    call : Call
    agreement : Agreement
    """
    if len(finalists) == 1:
        return build(finalists[0])
    times_s = []
    for chosen in finalists:
        module = build(chosen)
        kind = module.device.type
        # The CPU's generator is always covered.
        with torch.random.fork_rng([] if kind == "cpu" else None,
                                   device_type=kind):
            times_s.append(_step_time_s(module, call, agreement))
        del module
    best = min(range(len(finalists)), key=lambda i: (times_s[i], i))
    return build(finalists[best])


def _step_time_s(module: ParallelModule, call: Call,
                 agreement: Agreement) -> float:
    args, kwargs = _arguments(call)
    times_s = []
    for _ in range(_WARMUP + _MEASURED):
        _wait(module.device)
        start = time.perf_counter()
        backward_of(module(*args, **kwargs))
        _wait(module.device)
        times_s.append(time.perf_counter() - start)
        module.zero_grad(set_to_none=True)
    return max(agreement.gather(statistics.median(times_s[_WARMUP:])))


def _arguments(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    leaves = [
        torch.zeros_like(x, device="cpu", requires_grad=False)
        if isinstance(x, torch.Tensor) and x.is_meta else x
        for x in call.leaves
    ]
    args, kwargs, targets = pytree.tree_unflatten(leaves, call.tree)
    return (*args, *targets), kwargs


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device.type).synchronize(device)
