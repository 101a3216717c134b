"""CTC loss of each sample, as one operator.

``scaletorch::ctc_loss`` is ``F.ctc_loss(..., reduction="none")``. Torch's own
operator beneath it returns what its backward reads as well, in a shape that
depends on the values of the lengths, which no graph can hold. Here the backward
runs the forward once more.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["ctc_loss"]

_aten = torch.ops.aten


@torch.library.custom_op("scaletorch::ctc_loss", mutates_args=())
def ctc_loss(log_probs: torch.Tensor, targets: torch.Tensor,
             input_lengths: torch.Tensor, target_lengths: torch.Tensor,
             blank: int, zero_infinity: bool) -> torch.Tensor:
    """The loss of each sample.

    Parameters
    ----------
    log_probs : Tensor of shape (time, batch, classes)
    targets : Tensor of shape (batch, length), or (sum of target_lengths, )
    input_lengths, target_lengths : Tensor of shape (batch, )
    blank : int
        The class of none.
    zero_infinity : bool
        Whether samples whose targets are too long have no loss.
    """
    return torch.ctc_loss(log_probs, targets, input_lengths, target_lengths,
                          blank, 0, zero_infinity)


@torch.library.custom_op("scaletorch::ctc_loss_backward", mutates_args=())
def ctc_loss_backward(grad: torch.Tensor, log_probs: torch.Tensor,
                      targets: torch.Tensor, input_lengths: torch.Tensor,
                      target_lengths: torch.Tensor, blank: int,
                      zero_infinity: bool) -> torch.Tensor:
    """The gradient of `log_probs`."""
    read = log_probs, targets, input_lengths, target_lengths
    kept = _aten._ctc_loss.Tensor(*read, blank, zero_infinity)
    return _aten._ctc_loss_backward.Tensor(grad, *read, *kept, blank,
                                           zero_infinity)


@ctc_loss.register_fake
def _losses(log_probs: torch.Tensor, *rest: Any) -> torch.Tensor:
    del rest
    return log_probs.new_empty(log_probs.shape[1])


@ctc_loss_backward.register_fake
def _gradient(grad: torch.Tensor, log_probs: torch.Tensor, *rest:
              Any) -> torch.Tensor:
    del grad, rest
    return torch.empty_like(log_probs)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    *tensors, ctx.blank, ctx.zero_infinity = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    found = ctc_loss_backward(grad, *ctx.saved_tensors, ctx.blank,
                              ctx.zero_infinity)
    return found, None, None, None, None, None


ctc_loss.register_autograd(_backward, setup_context=_keep)
