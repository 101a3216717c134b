"""Passes over gradients, parameters and the optimizer's state."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.cost.analytic.configurations import DDP, FSDP, Configurations
from planner.cost.analytic.hardware import Rates
from planner.cost.analytic.operators import ELEMENT_BYTES
from planner.cost.analytic.shares import stage_parameters
from planner.cost.analytic.transformer import Transformer

__all__ = ["accumulation_s", "optimizer_s"]

Number = Any


def accumulation_s(held: Number, plan: Configurations, rates: Rates) -> Number:
    """Seconds that the memory takes, in one micro-batch, to add gradients to
    sums of all, and to copy their parameters.

    Products write a gradient in the width of the parameters, which the
    backward has; then that and the sum are read, and the sum written. A
    product that adds to the sum itself reads and writes this alone, most of
    it while it computes. Sums of copies: what the parameter had is cleared,
    read and written again, the copy written and read.

    Parameters
    ----------
    held : number or array
        Parameters on one rank.
    plan : Configurations
    rates : Rates
    """
    sharded = np.equal(plan.sharding, FSDP)
    sums = np.where(sharded, 1 / plan.shards, 1.0)
    moved = np.where(plan.fused_accumulation,
                     rates.exposed * (2 * plan.gradient_bytes - ELEMENT_BYTES),
                     2 * plan.gradient_bytes + ELEMENT_BYTES)
    copies = 4 * ELEMENT_BYTES + 2 * plan.gradient_bytes
    moved = moved + np.where(plan.copied_accumulation, copies, 0)
    later = np.where(np.equal(plan.gradient_bytes, ELEMENT_BYTES),
                     (plan.num_microbatches - 1) / plan.num_microbatches, 1.0)
    # Without stages whole gradients are sent in every micro-batch, and cast
    # to what they are summed in before; parameters are gathered for the
    # forward and for the backward.
    often = sharded & np.equal(plan.pp, 1)
    casts = np.where(often & np.greater(plan.gradient_bytes, ELEMENT_BYTES),
                     ELEMENT_BYTES + plan.gradient_bytes, 0)
    copied = np.where(often & np.asarray(plan.copied_gathers, dtype=bool),
                      2 * 2 * ELEMENT_BYTES, 0)
    trained = np.where(plan.frozen, 0.0, sums * later * moved + casts)
    return held * (trained + copied) / rates.memory_bytes_per_s


def optimizer_s(model: Transformer, plan: Configurations,
                rates: Rates) -> Number:
    """Seconds of Adam's step: state read and written, gradient read, weight
    written.

    Parameters
    ----------
    model : Transformer
    plan : Configurations
    rates : Rates
    """
    held = stage_parameters(model, plan)
    owned = np.where(np.equal(plan.sharding, DDP), held, held / plan.shards)
    moved = owned * (2 * plan.master_bytes + plan.gradient_bytes +
                     ELEMENT_BYTES)
    return np.where(plan.frozen, 0.0, moved) / rates.memory_bytes_per_s
