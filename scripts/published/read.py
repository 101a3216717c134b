"""Read rows of published runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from planner.cluster.device import DeviceKind
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.memory import step_memory
from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Case, Unreadable
from scripts.published.hardware import cluster_of, preset_of
from scripts.published.implied import with_sequence
from scripts.published.measured import (implied_share, measured_bytes,
                                        measured_s, stated_share, step_tokens)
from scripts.published.model import model_of
from scripts.published.plan import plan_of, world_size
from scripts.published.refuse import check_stages, refuse
from scripts.published.stated_size import as_stated
from scripts.published.tidy import tidy

__all__ = ["read_case", "source_of"]

_SAME_WORK = 1.5
_WHOLE = 0.75
"""Without gradients of weights, two thirds of the flops are left."""


def source_of(row: Any) -> str:
    """The name of the source; "unknown" where a row has none."""
    source = row.get("source") if isinstance(row, Mapping) else None
    if isinstance(source, Mapping):
        source = source.get("name")
    return str(source) if source else "unknown"


def read_case(row: Any) -> Case:
    """A row as a case.

    Raises
    ------
    Unreadable
        When the row does not say enough, or what it says is not modelled.
    """
    row = tidy(row)
    refuse(row)
    hardware = row["hardware"]
    preset = preset_of(str(hardware.get("gpu", "")))
    devices = world_size(row)
    stated = bool(
        row.get("recompute") and row["parallel"].get("sharding")
        and hardware.get("count"))
    row = with_sequence(row, devices)
    model = model_of(row["model"])
    plan = plan_of(row,
                   devices=devices,
                   preset=preset,
                   gated=bool(model.gated),
                   seq=int(model.seq))
    check_stages(model, plan)
    plan = replace(plan, frozen=plan.frozen or _is_frozen(row, model))
    model = _sized(row, model, plan)
    cluster = cluster_of(hardware, devices)
    _check_memory(row, model, plan, cluster.device)
    seconds = measured_s(row, model, plan)
    peak = cluster.device.peak(torch.bfloat16) if "v100" not in preset else \
        cluster.device.peak(torch.float16)
    flops = float(model.model_flops(step_tokens(model, plan)))
    flops_per_s = flops / seconds / float(plan.devices) if seconds else None
    _check_rates(cluster.device, flops_per_s)
    size_bytes = measured_bytes(row)
    return Case(id=str(row.get("id")),
                source=source_of(row),
                preset=preset,
                cluster=cluster,
                model=model,
                plan=plan,
                dtype=str(row.get("dtype")),
                measured_s=seconds,
                measured_bytes=size_bytes,
                last_rank="last" in str(row.get("notes")),
                reserved="peak_mem_bytes" not in row["measured"],
                allocator="peak_mem_gib" in row["measured"],
                stated=stated,
                one_step="one iteration" in str(row.get("notes")),
                utilisation=flops_per_s / peak if flops_per_s else None)


def _sized(row: Mapping[str, Any], model: Transformer,
           plan: Configurations) -> Transformer:
    """The model, of the size that the row's other statements agree on."""
    implied = implied_share(row, model, plan)
    if implied and not 1 / _SAME_WORK < implied < _SAME_WORK:
        raise Unreadable("the row contradicts itself: its rate of flops in "
                         f"its time is {implied:.2f} times the work of its "
                         "step")
    return as_stated(model, row, implied)


def _check_memory(row: Mapping[str, Any], model: Transformer,
                  plan: Configurations, device: DeviceKind) -> None:
    """Refuse runs with an assumed micro-batch that do not fit as stated."""
    stated = any(row.get(n) for n in ("micro_batch", "local_batch"))
    if stated or row.get("recompute"):
        return
    needed = float(step_memory(model, plan, last_stage=False).total_bytes)
    if needed > device.memory_bytes:
        raise Unreadable("as stated one sequence does not fit in a device's "
                         "memory: what was recomputed or offloaded is not "
                         "stated")


def _check_rates(device: DeviceKind, flops_per_s: float | None) -> None:
    """Refuse what no device reaches."""
    most = max(p for _, p in device.peak_flops_per_s)
    if flops_per_s and flops_per_s > most:
        raise Unreadable("the row contradicts itself: its model's flops in "
                         "its time are more than the devices' peak")


def _is_frozen(row: Mapping[str, Any], model: Transformer) -> bool:
    """Whether rates of tokens and flops imply less work than a step of all
    weights is, so that only adapters are trained."""
    share = stated_share(row, model)
    dense = model.experts == 0 and model.seq <= 8192
    return bool(dense and share is not None and share < _WHOLE)
