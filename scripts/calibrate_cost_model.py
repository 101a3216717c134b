"""Fit the devices of the presets on published training runs.

    python -m scripts.calibrate_cost_model FILE... [--json]
        [--write | --check | --host]

Per kind of device, and never per row or per source: reached shares of the
peaks, overheads, and the shares of the links' rates that collectives of a
training step reach (:mod:`scripts.published.fit`). A fifth of the rows, by
a hash, is kept out. Printed are the errors of the rows that were fitted, of
those kept out, and, by a fit for each source that has seen nothing of it,
of whole sources. ``--host`` fits what the host takes in Megatron-LM's tests
instead (:mod:`scripts.published.host`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scripts.published.batch import Batch
from scripts.published.case import Case, Unreadable
from scripts.published.errors import held_out, summarise
from scripts.published.fit import fit, of_preset, parameters_of, times_with
from scripts.published.host import fit_host, host_cases
from scripts.published.predict import is_doubted
from scripts.published.presets import with_numbers
from scripts.published.read import read_case
from scripts.published.rows import read_rows

__all__ = [
    "ASSUMED", "FAMILIES", "cases_of", "fit_family", "main", "unseen_times"
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

ASSUMED: Mapping[str, tuple[str, ...]] = {"H100": ("h100-pcie", )}
"""Presets that no run was published of, by the family they resemble."""

_MEASURED = ("attention_backward", "wave_elements")
_LONG = 16384
_FITTED = "fit on published training runs (scripts/calibrate_cost_model.py)"


def _plain(case: Case) -> Case:
    """A case on devices without the coefficients that are fitted."""
    known = tuple(c for c in case.cluster.device.coefficients
                  if c.name in _MEASURED)
    device = replace(case.cluster.device, coefficients=known)
    return replace(case, cluster=replace(case.cluster, device=device))


def fit_family(batch: Batch, family: str) -> dict[str, float]:
    """Fit one family on those of its cases that are not held out."""
    kept = np.array([not held_out(c.source, c.id) for c in batch.cases])
    return fit(batch, kept, parameters_of(family))


def unseen_times(batch: Batch, family: str) -> np.ndarray:
    """Times of every case by a fit on the other sources; nan for one."""
    sources = np.array([c.source for c in batch.cases])
    found = np.full(len(sources), np.nan)
    for source in sorted(set(sources.tolist())):
        own = sources == source
        if not own.all():
            values = fit(batch, ~own, parameters_of(family))
            found[own] = times_with(batch, values)[own]
    return found


def _is_fitted(row: Mapping[str, Any]) -> bool:
    """Tests of a few steps of tiny models say more about their host, and
    runs of other compilers than PyTorch's more about those; some rows their
    own source doubts."""
    source = str(row["source"])
    return not (row.get("transformer_impl") or "functional" in source
                or "JAX" in source or is_doubted(row))


def _states_batch(row: Mapping[str, Any], case: Case) -> bool:
    """Whether it is known what a run computed at once: it says so, or its
    sequences are so long that it was one."""
    stated = any(row.get(n) for n in ("micro_batch", "local_batch"))
    return stated or case.model.seq >= _LONG


def cases_of(rows: Sequence[Mapping[str, Any]]) -> list[Case]:
    """The runs that are fitted, on devices without fitted numbers."""
    found = []
    for row in rows:
        if not _is_fitted(row):
            continue
        try:
            case = read_case(row)
        except Unreadable:
            continue
        if case.measured_s and _states_batch(row, case):
            found.append(_plain(case))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.calibrate_cost_model",
        description="Fit the devices of the presets on published runs.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write",
                      action="store_true",
                      help="write the numbers into the presets")
    what.add_argument("--check",
                      action="store_true",
                      help="fail where a preset has other numbers")
    what.add_argument("--host",
                      action="store_true",
                      help="fit what the host takes in Megatron-LM's tests")
    args = parser.parse_args(argv)
    rows = read_rows(args.files)
    if args.host:
        sys.stdout.write(f"{fit_host(host_cases(rows))}\n")
        return 0
    cases = cases_of(rows)
    fitted: dict[str, dict[str, float]] = {}
    for family, presets in FAMILIES.items():
        own = [c for c in cases if c.preset in presets]
        if own:
            batch = Batch.of(own)
            fitted[family] = fit_family(batch, family)
            if not (args.json or args.write or args.check):
                _report(family, batch, fitted[family])
    if args.json:
        sys.stdout.write(json.dumps(fitted, indent=2) + "\n")
    stale = _presets(fitted, write=args.write) if (args.write
                                                   or args.check) else 0
    return 1 if args.check and stale else 0


def _presets(fitted: Mapping[str, Mapping[str, float]], *, write: bool) -> int:
    """How many presets have other numbers; writes them where asked."""
    stale = 0
    for family, values in fitted.items():
        assumed = f"assumed as fitted for the {family}"
        names = [(n, _FITTED) for n in FAMILIES[family]]
        names += [(n, assumed) for n in ASSUMED.get(family, ())]
        for name, source in names:
            path = Path(
                str(
                    resources.files("planner.cluster").joinpath(
                        "presets", f"{name}.yaml")))
            text = path.read_text(encoding="utf-8")
            new = with_numbers(text, of_preset(values, name), source)
            if new != text:
                stale += 1
                sys.stdout.write(f"{name}: other numbers\n")
            if write:
                path.write_text(new, encoding="utf-8")
    return stale


def _report(family: str, batch: Batch, values: Mapping[str, float]) -> None:
    shown = "  ".join(f"{k}={v:g}" for k, v in values.items())
    sys.stdout.write(f"{family}: {shown}\n rows    mean   median      p90"
                     "    rank\n")
    times = times_with(batch, values).tolist()
    unseen = unseen_times(batch, family).tolist()
    cases = list(zip(batch.cases, times, unseen, strict=True))
    for source in sorted({c.source for c in batch.cases}):
        own = [(c, t, u) for c, t, u in cases if c.source == source]
        for part, out in (("fitted", False), ("kept out", True)):
            group = [(t, c.measured_s) for c, t, _ in own
                     if held_out(c.source, c.id) == out]
            _line(f"{part}: {source}", group)
        if np.isfinite([u for _, _, u in own]).all():
            _line(f"unseen: {source}", [(u, c.measured_s) for c, _, u in own])


def _line(label: str, group: Sequence[tuple[float, float | None]]) -> None:
    if group:
        summary = summarise([t for t, _ in group],
                            [m or 0.0 for _, m in group])
        sys.stdout.write(f"{summary}   {label}\n")


if __name__ == "__main__":
    sys.exit(main())
