"""CTC losses are captured as one operator and a sum of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from planner.ops.ctc_loss import ctc_loss

__all__ = ["WholeCtc"]

_MEAN, _SUM = 1, 2


class WholeCtc(TorchFunctionMode):
    """Active while the model's own code runs."""

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ctc_loss, F.ctc_loss):
            log_probs = args[0] if args else kwargs["log_probs"]
            # One sample alone has no batch to be divided.
            if log_probs.ndim == 3:
                return _captured(*args, **kwargs)
        return func(*args, **kwargs)


def _captured(log_probs: torch.Tensor,
              targets: torch.Tensor,
              input_lengths: torch.Tensor | Sequence[int],
              target_lengths: torch.Tensor | Sequence[int],
              blank: int = 0,
              reduction: int | str = _MEAN,
              zero_infinity: bool = False) -> torch.Tensor:
    lengths, counts = (x if isinstance(x, torch.Tensor) else torch.tensor(
        x, device=log_probs.device) for x in (input_lengths, target_lengths))
    losses = ctc_loss(log_probs, targets, lengths, counts, blank,
                      zero_infinity)
    if reduction in (_MEAN, "mean"):
        return (losses / counts.clamp(min=1).to(losses)).mean()
    return losses.sum() if reduction in (_SUM, "sum") else losses
