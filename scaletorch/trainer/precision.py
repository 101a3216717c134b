"""Narrow products, and a loss scale that keeps their gradients in range."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch

__all__ = ["LossScale", "autocast"]

_GROWTH, _BACKOFF, _INTERVAL = 2.0, 0.5, 2000


def autocast(device: torch.device,
             dtype: str) -> AbstractContextManager[object]:
    """The context of a forward pass in a dtype, by its name."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, dtype))


class LossScale:
    """A factor that grows until gradients overflow, and shrinks then.

    As ``torch.amp.GradScaler``, with its numbers (Micikevicius et al.,
    Mixed Precision Training, 2018). That one looks for overflow in what a
    rank holds; here it is the norm over all ranks that tells.

    Parameters
    ----------
    enabled : bool
        Where False the scale is 1 and stays so.

    Attributes
    ----------
    value : float
    absorbed : bool
        Whether the last gradients were out of range and may be in range
        at the scale that is next.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = 2.0**16 if enabled else 1.0
        self.good_steps = 0
        self.absorbed = False

    @torch.no_grad()
    def unscale(self, parameters: Iterable[torch.Tensor]) -> None:
        """Divide the gradients by the scale."""
        if self.enabled:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(1.0 / self.value)

    def update(self, finite: bool) -> None:
        """Adapt to whether the gradients of a step were finite."""
        # At a scale of 1 it was not the scale's fault.
        self.absorbed = self.enabled and not finite and self.value > 1.0
        if not self.enabled:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value * _BACKOFF)
        elif self.good_steps == _INTERVAL:
            self.value, self.good_steps = self.value * _GROWTH, 0

    def state(self) -> dict[str, float]:
        """What a checkpoint holds of it."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint; a run of another dtype starts anew."""
        if self.enabled and state["value"] > 1.0:
            self.value = state["value"]
            self.good_steps = int(state["good_steps"])
