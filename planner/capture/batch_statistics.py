"""Running statistics of batch norms, as eager training leaves them.

A batch norm in a checkpointed region updates them in the forward pass and
once more where the backward computes the region again. A trace computes the
region once; so the norm's second update is put beside the first. One with
``momentum=None`` weights the batches by their number, the value of a buffer,
which a trace can't read as a number but can divide by.

``nn.SyncBatchNorm`` is traced as the batch norm that it is on one device: the
batch of a program is the one of all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Recomputed", "averages_by_count", "kept_statistics", "torchs_own"]

_KINDS: tuple[Any, ...] = (_BatchNorm, nn.SyncBatchNorm)


class Recomputed:
    """How often a backward computes the code that is being traced.

    Regions inside of others of the variant that is not reentrant count once:
    computing the outer one again ends with the last value that is needed
    there, before the inner one if nothing comes after that.
    """

    def __init__(self) -> None:
        self.times = 0

    @contextlib.contextmanager
    def region(self, *, reentrant: bool) -> Iterator[None]:
        before = self.times
        self.times = before + 1 if reentrant else max(before, 1)
        try:
            yield
        finally:
            self.times = before


def averages_by_count(module: nn.Module) -> bool:
    """Whether the next call weights its averages by a count of calls."""
    return (isinstance(module, _BatchNorm) and module.training
            and module.momentum is None
            and module.num_batches_tracked is not None)


def torchs_own(module: nn.Module) -> bool:
    """Whether a batch norm's forward pass is one that is replaced here."""
    return any(type(module).forward is kind.forward for kind in _KINDS)


@contextlib.contextmanager
def kept_statistics(
        recomputed: Recomputed,
        on_two_modes: Callable[[_BatchNorm], None]) -> Iterator[None]:
    """Have batch norms update their statistics as often as eager does.

    Parameters
    ----------
    recomputed : Recomputed
    on_two_modes : callable
        Called with a batch norm that updates statistics by which an earlier
        call, in evaluation, has a gradient.
    """
    originals = [kind.forward for kind in _KINDS]
    evaluated: dict[int, _BatchNorm] = {}

    def forward(self: _BatchNorm, input: torch.Tensor) -> torch.Tensor:
        if self.training and id(self) in evaluated:
            on_two_modes(self)
        run = _by_count if averages_by_count(self) else _by_momentum
        result = run(self, input, originals[0], recomputed.times)
        if not self.training and result.requires_grad:
            evaluated[id(self)] = self
        return result

    for kind in _KINDS:
        kind.forward = forward
    try:
        yield
    finally:
        for kind, own in zip(_KINDS, originals, strict=True):
            kind.forward = own


def _by_momentum(norm: _BatchNorm, x: torch.Tensor,
                 forward: Callable[..., Any], times: int) -> torch.Tensor:
    """With ``r1 = (1 - m) r0 + m b``, ``r2 = r1 + (1 - m) (r1 - r0)``."""
    updates = norm.training and norm.num_batches_tracked is not None
    if not updates or not times or not torch.is_grad_enabled():
        return forward(norm, x)
    buffers = (norm.running_mean, norm.running_var)
    before = [b.detach().clone() for b in buffers]
    result = forward(norm, x)
    keep = 1 - norm.momentum
    for _ in range(times if result.requires_grad else 0):
        with torch.no_grad():
            after = [b.detach().clone() for b in buffers]
            for buffer, old, new in zip(buffers, before, after, strict=True):
                buffer.add_((new - old) * keep)
            norm.num_batches_tracked.add_(1)
        before = after
    return result


def _by_count(norm: _BatchNorm, x: torch.Tensor, forward: Callable[..., Any],
              times: int) -> torch.Tensor:
    """Averages of all batches: each new one weighs one in their number."""
    del forward
    norm._check_input_dim(x)
    mean = torch.zeros_like(norm.running_mean)
    variance = torch.zeros_like(norm.running_var)
    result = F.batch_norm(x, mean, variance, norm.weight, norm.bias, True, 1.0,
                          norm.eps)
    for _ in range(1 + times * result.requires_grad):
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = 1 / norm.num_batches_tracked.to(mean.dtype)
            norm.running_mean.add_((mean - norm.running_mean) * share)
            norm.running_var.add_((variance - norm.running_var) * share)
    return result
