"""The autocast that is active around a call."""

from __future__ import annotations

import torch

__all__ = ["ambient_autocast", "autocast_devices"]


def autocast_devices() -> tuple[str, ...]:
    """Types of devices whose autocast may be active; the CPU last.

    An accelerator is one that this torch was built for, whether there is
    one or not: models for it are planned where there is none.
    """
    accelerator = torch.accelerator.current_accelerator()
    found = accelerator.type if accelerator is not None else "cpu"
    kinds = (found, "cpu") if found != "cpu" else ("cpu", )
    return tuple(k for k in kinds if torch.amp.is_autocast_available(k))


def ambient_autocast() -> torch.dtype | None:
    """Its dtype; None where there is none."""
    for device in autocast_devices():
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None
