"""What a row's own numbers imply where it does not say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Unreadable
from scripts.published.measured import iteration_s
from scripts.published.model import model_of

__all__ = ["with_sequence"]

_LENGTHS = tuple(2**n for n in range(7, 18))
_AGAIN = {"none": 1.0, "full": 4 / 3}
_ALIKE = 0.07


def with_sequence(row: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """The row with the length of its sequences, where its rate tells it.

    A rate of flops and a time of steps say how much work a sequence of the
    batch is. Of the lengths that are powers of two at most one agrees; one
    without recomputation and one with it are too far from each other to be
    mistaken, so that is told too.

    Parameters
    ----------
    row : mapping
        In the form of :func:`scripts.published.tidy.tidy`.
    devices : int

    Returns
    -------
    dict
        The row as it is where it states the length or nothing tells it.
    """
    flops = _flops_of_a_sequence(row, devices)
    if row["model"].get("seq") or flops is None:
        return dict(row)
    stated = row.get("recompute")
    choices = {stated: _AGAIN[stated]} if stated in _AGAIN else _AGAIN
    found = [(abs(math.log(flops / (again * work))), seq, recompute)
             for seq in _LENGTHS for work in [_work(row["model"], seq)] if work
             for recompute, again in choices.items()]
    error, seq, recompute = min(found, default=(math.inf, 0, ""))
    if error > _ALIKE:
        return dict(row)
    return {
        **row, "model": {
            **row["model"], "seq": seq
        },
        "recompute": recompute
    }


def _flops_of_a_sequence(row: Mapping[str, Any], devices: int) -> float | None:
    measured, batch = row["measured"], row.get("global_batch")
    seconds, rate = iteration_s(measured), measured.get("tflops_per_gpu")
    if not (batch and rate and seconds):
        return None
    return 1e12 * float(rate) * seconds * devices / int(batch)


def _work(raw: Mapping[str, Any], seq: int) -> float | None:
    """Flops of one sequence, forward and backward."""
    try:
        model: Transformer = model_of({**raw, "seq": seq})
    except Unreadable:
        return None
    return float(model.model_flops(seq))
