"""The autocast that is active around a call."""

from __future__ import annotations

import torch

__all__ = ["ambient_autocast"]


def ambient_autocast() -> torch.dtype | None:
    """Its dtype; None where there is none."""
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return None
