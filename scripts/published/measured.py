"""Seconds and bytes that a published run measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import FULL, Configurations
from planner.cost.analytic.transformer import Transformer

__all__ = [
    "implied_share", "iteration_s", "measured_bytes", "measured_s",
    "stated_share", "step_tokens"
]


def step_tokens(model: Transformer, plan: Configurations) -> float:
    """Tokens of one step of the whole job."""
    return float(plan.micro_batch * plan.num_microbatches * plan.dp *
                 model.seq)


def measured_s(row: Mapping[str, Any], model: Transformer,
               plan: Configurations) -> float | None:
    """Seconds of a step: as published, else from rates.

    A rate of flops is turned by the convention the row states, tokens and
    sequences by the batch.
    """
    measured = row["measured"]
    # A rate holds for any number of micro-batches, a time for its own.
    batch = [row.get(n) for n in ("global_batch", "grad_accum", "local_batch")]
    seconds = iteration_s(measured) if any(batch) else None
    if seconds is not None:
        return seconds
    tokens = step_tokens(model, plan)
    if measured.get("tokens_per_s_per_gpu"):
        return tokens / (measured["tokens_per_s_per_gpu"] *
                         float(plan.devices))
    if measured.get("tokens_per_s"):
        return tokens / measured["tokens_per_s"]
    for name in ("sequences_per_s", "samples_per_s"):
        if measured.get(name):
            return tokens / model.seq / measured[name]
    return _from_flops(row, model, plan, tokens)


def iteration_s(measured: Mapping[str, Any]) -> float | None:
    """Seconds of a step as published."""
    for name, unit in (("iteration_time_s", 1.0), ("iteration_time_ms", 1e-3)):
        value = measured.get(name)
        if value is not None:
            return unit * float(value)
    return None


def stated_share(row: Mapping[str, Any], model: Transformer) -> float | None:
    """The flops of a token that a row's two rates imply, per those of a
    whole training step; None where it does not state both."""
    measured = row["measured"]
    tokens = measured.get("tokens_per_s_per_gpu")
    flops = measured.get("model_tflops_per_gpu")
    if not tokens or not flops:
        return None
    return float(flops * 1e12 / tokens / model.model_flops(1))


def implied_share(row: Mapping[str, Any], model: Transformer,
                  plan: Configurations) -> float | None:
    """The flops of a step that a row's rate and time imply, per those of
    its model; None where it lacks one of them or the convention."""
    if not row.get("flops_convention") or row["measured"].get(
            "iteration_time_s") is None:
        return None
    tokens = step_tokens(model, plan)
    by_rate_s = _from_flops(row, model, plan, tokens)
    seconds = measured_s(row, model, plan)
    return seconds / by_rate_s if seconds and by_rate_s else None


def _from_flops(row: Mapping[str, Any], model: Transformer,
                plan: Configurations, tokens: float) -> float | None:
    measured = row["measured"]
    flops = float(model.model_flops(tokens))
    convention = str(row.get("flops_convention") or "")
    simple = re.search(r"(\d)\*N\*tokens", convention)
    if simple:
        flops = int(simple[1]) * float(model.parameters) * tokens
    again = 4 / 3 if plan.recompute == FULL else 1.0
    rates = (("model_tflops_per_gpu", 1.0), ("hw_tflops_per_gpu",
                                             1.0 if simple else again),
             ("tflops_per_gpu", again if "recompute" in convention else 1.0))
    for name, factor in rates:
        if measured.get(name):
            return (factor * flops /
                    (measured[name] * 1e12 * float(plan.devices)))
    return None


def measured_bytes(row: Mapping[str, Any]) -> float | None:
    """Peak memory in bytes."""
    measured = row["measured"]
    for name, unit in (("peak_mem_bytes", 1.0), ("peak_mem_gib", 2.0**30),
                       ("peak_mem_gb", 1e9)):
        if measured.get(name) is not None:
            return unit * float(measured[name])
    return None
