"""Outputs from logits and labels; a label of -100 is left out."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from scaletorch.models.output import Output

__all__ = ["IGNORED", "classified", "next_token", "same_token"]

IGNORED = -100
"""The label of a token that does not count."""


def next_token(logits: torch.Tensor, labels: torch.Tensor | None) -> Output:
    """Each token predicts the label after its own.

    Labels are the tokens themselves, as with Hugging Face's causal
    language models: the shift happens here.

    Parameters
    ----------
    logits : Tensor
        Of shape (batch, sequence, vocabulary).
    labels : Tensor, optional
        Of shape (batch, sequence).
    """
    if labels is None:
        return Output(logits=logits)
    # Shifting the labels, padded, keeps the sequence's length, which
    # divides over a mesh; shifting the logits would not.
    return same_token(logits, F.pad(labels, (0, 1), value=IGNORED)[:, 1:])


def same_token(logits: torch.Tensor, labels: torch.Tensor | None) -> Output:
    """Each token predicts the label at its own place.

    Parameters
    ----------
    logits : Tensor
        Of shape (batch, sequence, vocabulary).
    labels : Tensor, optional
        Of shape (batch, sequence).
    """
    if labels is None:
        return Output(logits=logits)
    return classified(logits.flatten(0, 1), labels.flatten())


def classified(logits: torch.Tensor, labels: torch.Tensor | None) -> Output:
    """One class for each row.

    Parameters
    ----------
    logits : Tensor
        Of shape (rows, classes).
    labels : Tensor, optional
        Of shape (rows,).
    """
    if labels is None:
        return Output(logits=logits)
    # Sums over a vocabulary need more digits than two bytes have.
    precise = logits.float() if logits.dtype.itemsize < 4 else logits
    return Output(loss=F.cross_entropy(precise, labels, ignore_index=IGNORED))
