"""Cross entropy over a sharded batch and a sharded vocabulary."""

from __future__ import annotations

from typing import Any

import torch

from passes.collectives import AxisRef, convert
from passes.lowerings.registry import Context, register_lowering
from planner.ir.layout import PMAX, P, R

__all__ = ["cross_entropy"]

_NONE, _MEAN, _SUM = 0, 1, 2


@register_lowering("cross_entropy_partial", "cross_entropy_vocab")
def cross_entropy(context: Context,
                  logits: torch.Tensor,
                  target: torch.Tensor,
                  weight: torch.Tensor | None = None,
                  reduction: int = _MEAN,
                  ignore_index: int = -100,
                  label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross entropy (or nll) of local logits, its mean over all tokens.

    Over an axis that shards the batch the result is this rank's share of
    the global mean; over one that shards the vocabulary the normaliser and
    the target's logit are reduced first (Shoeybi et al., Megatron-LM,
    2019), so that no rank ever holds whole rows.

    Parameters
    ----------
    context : Context
    logits : Tensor
        This rank's, of shape (rows, classes, ...).
    target : Tensor
        This rank's, of shape (rows, ...); over the vocabulary's axis whole.
    weight : Tensor, optional
        Of shape (classes,).
    reduction, ignore_index, label_smoothing
        As of ``aten.cross_entropy_loss``.
    """
    vocab = context.named("cross_entropy_vocab")
    batch = context.named("cross_entropy_partial")
    if not vocab:
        total = _local_sum(context, logits, target, weight, ignore_index,
                           label_smoothing)
    else:
        total = _vocab_losses(context, vocab, logits, target, ignore_index)
        if reduction == _NONE:
            return total
        total = total.sum()
    if reduction == _SUM:
        return total
    return total / _token_count(target, weight, ignore_index, batch)


def _local_sum(context: Context, logits: torch.Tensor, target: torch.Tensor,
               weight: torch.Tensor | None, ignore_index: int,
               label_smoothing: float) -> torch.Tensor:
    arguments: tuple[Any, ...] = (logits, target, weight, _SUM, ignore_index)
    if "cross_entropy" in str(context.call.target):
        arguments += (label_smoothing, )
    return context.call.target(*arguments)


def _token_count(target: torch.Tensor, weight: torch.Tensor | None,
                 ignore_index: int, axes: list[AxisRef]) -> torch.Tensor:
    """What the mean divides by, over all ranks."""
    kept = target != ignore_index
    if weight is None:
        count = kept.sum()
    else:
        rows = weight.gather(0, torch.where(kept, target, 0).flatten())
        count = (rows * kept.flatten()).sum().detach()
    for axis in axes:
        count = convert(count, P, R, axis)
    return count


def _vocab_losses(context: Context, axes: list[AxisRef], logits: torch.Tensor,
                  target: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Per-token losses with the class dim (1, or 0 alone) sharded."""
    given, logits = logits.dtype, _wide(logits)
    dim = 1 if logits.dim() > 1 else 0
    peak = logits.detach().amax(dim, keepdim=True)
    for axis in axes:
        peak = convert(peak, PMAX, R, axis)
    start, classes = 0, context.call.inputs[0].shape[dim]
    for axis in axes:
        first, classes = axis.part(classes)
        start += first
    local = target - start
    mine = (local >= 0) & (local < classes)
    normaliser, picked = _Rows.apply(logits - peak, local, mine, dim)
    for axis in axes:
        normaliser = convert(normaliser, P, R, axis)
        picked = convert(picked, P, R, axis)
    loss = normaliser.log() - picked
    return torch.where(target == ignore_index, 0.0, loss).to(given)


class _Rows(torch.autograd.Function):
    """Of each row the sum of exponentials, and the target's logit where it
    is one of these classes.

    Autograd would make a gradient for each of the two and add them up:
    whole logits are what takes most memory in many steps.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, target: torch.Tensor,
                mine: torch.Tensor,
                dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.where(mine, target, 0).unsqueeze(dim)
        picked = torch.where(mine, logits.gather(dim, index).squeeze(dim), 0.0)
        exponentials = logits.exp()
        ctx.save_for_backward(exponentials, index, mine)
        ctx.dim = dim
        return exponentials.sum(dim), picked

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        exponentials, index, mine = ctx.saved_tensors
        of_sums, of_picked = grads
        found = exponentials * of_sums.unsqueeze(ctx.dim)
        own = torch.where(mine, of_picked, 0.0).unsqueeze(ctx.dim)
        return found.scatter_add(ctx.dim, index, own), None, None, None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Sums of exponentials are taken in float32 at least, as by torch."""
    narrow = x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if narrow else x
