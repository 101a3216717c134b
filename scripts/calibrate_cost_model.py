"""Fit the devices of the presets on published training runs.

    python -m scripts.calibrate_cost_model FILE [--json]

Per kind of device, and never per row or per source: reached shares of the
peaks, overheads, and the shares of the links' rates that collectives of a
training step reach. Least squares of log time over all sources, a soft
loss, and a weak pull to the values that are usual. A fifth of the rows, by
a hash, is kept out; the errors are printed for both parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from planner.cost.analytic.hardware import Hardware, Rates
from planner.cost.analytic.step import step_time
from scripts.published.batch import Batch, product_dtype
from scripts.published.case import Case, Unreadable
from scripts.published.errors import held_out, summarise
from scripts.published.read import read_case

__all__ = [
    "FAMILIES", "PARAMETERS", "Parameter", "fit_family", "main", "times_with"
]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "A100": ("a100-80g", "a100-40g", "a800-80g"),
    "Ascend 910B": ("ascend-910b", ),
    "Blackwell": ("b200-sxm", "b300-sxm", "gb200-nvl72", "gb300-nvl72"),
    "H100": ("h100-sxm", "h200-sxm", "h800-sxm"),
    "H100 500 W": ("h100-96g-500w", ),
    "V100": ("v100-16g", "v100-32g"),
}
"""Presets whose numbers are fitted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What is fitted: where it starts, and between what it stays."""

    name: str
    usual: float
    low: float
    high: float


PARAMETERS = tuple(
    Parameter(name=name, usual=usual, low=low, high=high)
    for name, usual, low, high in (
        ("matmul", 0.75, 0.4, 0.95),
        ("attention", 0.5, 0.2, 0.85),
        ("memory", 0.8, 0.55, 0.95),
        ("matmul8", 0.6, 0.3, 0.78),
        ("matmul4", 0.5, 0.2, 0.78),
        ("launch_overhead_s", 3e-6, 5e-7, 8e-6),
        ("dispatch_s", 1.5e-5, 2e-6, 6e-5),
        ("queue_order", 4.0, 1.0, 20.0),
        ("exposed", 0.3, 0.01, 1.0),
        ("misaligned", 0.1, 0.001, 1.0),
        ("interference", 0.3, 0.01, 0.6),
        ("tensor_share", 0.8, 0.45, 1.0),
        ("data_share", 0.8, 0.2, 1.0),
        ("point_share", 0.8, 0.1, 1.0),
    ))
_PULL = 0.15
_SOFT = 0.1
_BALANCE = 0.35  # sources weigh as their number of rows to the 0.3


def _plain(case: Case) -> Case:
    """A case on devices without the coefficients that are fitted."""
    device = replace(case.cluster.device, coefficients=())
    return replace(case, cluster=replace(case.cluster, device=device))


def _hardware(batch: Batch, values: Mapping[str, float]) -> Hardware:
    """The batch's hardware with other numbers."""
    devices = [(c.cluster.device, product_dtype(c.preset))
               for c in batch.cases]
    peak = np.array([d.peak(dtype) for d, dtype in devices])
    peaks = [dict(d.peak_flops_per_s) for d, _ in devices]
    eight = np.array([p.get("float8_e4m3fn", 0.0) for p in peaks])
    four = np.array([p.get("float4_e2m1fn_x2", 0.0) for p in peaks])
    matmul = peak * values["matmul"]
    linear8 = np.where(eight > 0, eight * values["matmul8"], matmul)
    memory = np.array([d.memory_bandwidth_bytes_per_s for d, _ in devices])
    rates = Rates(matmul_flops_per_s=matmul,
                  attention_flops_per_s=peak * values["attention"],
                  linear8_flops_per_s=linear8,
                  linear4_flops_per_s=np.where(four > 0,
                                               four * values["matmul4"],
                                               linear8),
                  memory_bytes_per_s=memory * values["memory"],
                  launch_s=values["launch_overhead_s"],
                  dispatch_s=values["dispatch_s"],
                  queue_order=values["queue_order"],
                  exposed=values["exposed"],
                  misaligned=values["misaligned"],
                  interference=values["interference"])
    plain = batch.hardware
    return replace(plain,
                   rates=rates,
                   tp=plain.tp.slowed(values["tensor_share"]),
                   data=plain.data.slowed(values["data_share"]),
                   pp=plain.pp.slowed(values["point_share"]))


def times_with(batch: Batch, values: Mapping[str, float]) -> np.ndarray:
    """Step times of a batch on devices with these numbers."""
    found: np.ndarray = step_time(batch.models, batch.plans,
                                  _hardware(batch, values)).time_s
    return found


def fit_family(batch: Batch) -> dict[str, float]:
    """Fit one family on those of its cases that are not held out."""
    measured = np.array([c.measured_s for c in batch.cases])
    kept = np.array([not held_out(c.source, c.id) for c in batch.cases])
    counts = Counter(c.source for c in batch.cases)
    weight = np.array([counts[c.source]**-_BALANCE for c in batch.cases])
    usual = np.log([p.usual for p in PARAMETERS])
    scale = float(np.median(weight))

    def values(x: np.ndarray) -> dict[str, float]:
        return dict(
            zip([p.name for p in PARAMETERS], np.exp(x).tolist(), strict=True))

    def residuals(x: np.ndarray) -> np.ndarray:
        errors = weight * np.log(times_with(batch, values(x)) / measured)
        return np.concatenate([errors[kept], _PULL * scale * (x - usual)])

    bounds = (np.log([p.low for p in PARAMETERS]),
              np.log([p.high for p in PARAMETERS]))
    solution = least_squares(residuals,
                             usual,
                             loss="soft_l1",
                             f_scale=_SOFT * scale,
                             bounds=bounds)
    return {k: float(f"{v:.3g}") for k, v in values(solution.x).items()}


def _cases(rows: Sequence[Mapping[str, Any]]) -> list[Case]:
    found = []
    for row in rows:
        # Tests of a few steps of tiny models say more about their host.
        if row.get("transformer_impl") or "functional" in str(row["source"]):
            continue
        try:
            case = read_case(row)
        except Unreadable:
            continue
        if case.measured_s:
            found.append(_plain(case))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.calibrate_cost_model",
        description="Fit the devices of the presets on published runs.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    cases = _cases(
        yaml.load(args.file.read_text(encoding="utf-8"), yaml.CSafeLoader))
    fitted: dict[str, dict[str, float]] = {}
    for family, presets in FAMILIES.items():
        own = [c for c in cases if c.preset in presets]
        if own:
            batch = Batch.of(own)
            fitted[family] = fit_family(batch)
            if not args.json:
                _report(family, batch, fitted[family])
    if args.json:
        sys.stdout.write(json.dumps(fitted, indent=2) + "\n")
    return 0


def _report(family: str, batch: Batch, values: Mapping[str, float]) -> None:
    shown = "  ".join(f"{k}={v:g}" for k, v in values.items())
    sys.stdout.write(f"{family}: {shown}\n rows    mean   median      p90"
                     "    rank\n")
    times = times_with(batch, values).tolist()
    pairs = list(zip(batch.cases, times, strict=True))
    for source in sorted({c.source for c in batch.cases}):
        for part, out in (("fitted", False), ("kept out", True)):
            group = [(t, c.measured_s) for c, t in pairs
                     if c.source == source and held_out(c.source, c.id) == out]
            if group:
                summary = summarise([t for t, _ in group],
                                    [m or 0.0 for _, m in group])
                sys.stdout.write(f"{summary}   {part}: {source}\n")


if __name__ == "__main__":
    sys.exit(main())
