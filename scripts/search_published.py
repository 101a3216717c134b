"""Hold what the cost model would choose against what authors chose.

    python -m scripts.search_published FILE... [--limit N] [--source GLOB]
        [--better SHARE] [--brief]

For each published run: the best configuration of the same model, devices
and sequences of a step, by predicted time, among those that fit in memory,
and what it would gain, at last by source. The authors' own configuration is
one of them, so that the choice is never predicted to be slower; where it
would be much quicker the changes are told. Whether to believe it is told by
runs of one model that were measured under several configurations: how much
slower than the best measured one is the one that the model ranks first.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.cost.analytic.configurations import Configurations  # noqa: E402
from planner.cost.analytic.hardware import Hardware  # noqa: E402
from planner.cost.analytic.memory import step_memory  # noqa: E402
from planner.cost.analytic.step import step_time  # noqa: E402
from planner.piped import piped  # noqa: E402
from planner.units import format_bytes, format_time  # noqa: E402
from scripts.published.batch import product_dtype  # noqa: E402
from scripts.published.case import Case  # noqa: E402
from scripts.published.rows import read_rows  # noqa: E402
from scripts.published.space import VARIED, configurations  # noqa: E402
from scripts.validate_cost_model import predict  # noqa: E402

__all__ = ["Choice", "choose", "main", "regrets"]

_NAMES = {
    "sharding": ("ddp", "zero1", "zero2", "fsdp"),
    "recompute": ("none", "selective", "full", "alternate")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The authors' configuration and the best one of the same devices.

    Parameters
    ----------
    case : Case
    tried : int
        Configurations that fit.
    own_s, best_s : float
        Predicted steps.
    own_bytes, best_bytes : float
        Predicted memory of the rank that takes most.
    changes : dict of str to (int, int)
        What differs, with the authors' number first.
    parts : dict of str to float
        By how much each part of the step gets longer, in seconds.
    """

    case: Case
    tried: int
    own_s: float
    best_s: float
    own_bytes: float
    best_bytes: float
    changes: Mapping[str, tuple[int, int]]
    parts: Mapping[str, float]

    @property
    def gain(self) -> float:
        """Share of the authors' predicted step that is saved."""
        return 1 - self.best_s / self.own_s


def choose(case: Case) -> Choice:
    """The best configuration for the devices and the batch of a run.

    What fits takes no more than a device has, or no more than what the
    authors' configuration is predicted to take, which did run.
    """
    plans = configurations(case)
    hardware = Hardware.of(case.cluster,
                           plans,
                           dtype=product_dtype(case.preset))
    times = step_time(case.model, plans, hardware)
    time_s = np.asarray(times.time_s, dtype=float)
    size = np.maximum(*(np.broadcast_to(
        np.asarray(step_memory(case.model, plans, last_stage=last).total_bytes,
                   dtype=float), time_s.shape) for last in (False, True)))
    limit = max(float(case.cluster.weakest().memory_bytes), size[0])
    usable = np.isfinite(time_s) & (size <= limit)
    usable[0] = True
    best = int(np.argmin(np.where(usable, time_s, np.inf)))
    return Choice(case=case,
                  tried=int(usable.sum()),
                  own_s=float(time_s[0]),
                  best_s=float(time_s[best]),
                  own_bytes=float(size[0]),
                  best_bytes=float(size[best]),
                  changes=_changes(case, plans, best),
                  parts=_parts(times, best, time_s.shape))


def _changes(case: Case, plans: Configurations,
             best: int) -> dict[str, tuple[int, int]]:
    """Without what says nothing of a model without experts."""
    values = {
        name: getattr(plans, name)
        for name in VARIED
        if case.model.experts or not name.startswith(("ep", "expert"))
    }
    return {
        name: (int(v[0]), int(v[best]))
        for name, v in values.items() if v[0] != v[best]
    }


def _parts(times: Any, best: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Every part of the step, of the best one beyond the authors'."""
    found = {}
    for field in dataclasses.fields(times):
        values = np.broadcast_to(getattr(times, field.name), shape)
        found[field.name.removesuffix("_s")] = float(values[best] - values[0])
    return found


def regrets(
        cases: Sequence[tuple[Case, float]]) -> list[tuple[str, int, float]]:
    """How well runs of one model, devices and batch are ranked.

    Parameters
    ----------
    cases : sequence of (Case, float)
        With the predicted step.

    Returns
    -------
    list of (str, int, float)
        Name, configurations that were measured, and the measured time of
        the one that is predicted best over the best measured one, less 1.
    """
    groups: dict[Any, list[tuple[float, float]]] = {}
    names: dict[Any, str] = {}
    for case, predicted_s in cases:
        if case.measured_s is None:
            continue
        plan = case.plan
        batch = int(plan.micro_batch * plan.num_microbatches * plan.dp)
        key = (case.source, case.cluster, case.model, case.dtype, batch)
        groups.setdefault(key, []).append((predicted_s, case.measured_s))
        names.setdefault(key, case.id)
    return [(names[key], len(own),
             min(own)[1] / min(measured for _, measured in own) - 1)
            for key, own in groups.items() if len({m
                                                   for _, m in own}) > 1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.search_published",
        description="Hold what the cost model would choose against what "
        "authors chose.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N")
    parser.add_argument("--source", default="*", metavar="GLOB")
    parser.add_argument("--better",
                        type=float,
                        default=0.3,
                        metavar="SHARE",
                        help="from this gain on a row is told in full "
                        "(default: %(default)s)")
    parser.add_argument("--brief",
                        action="store_true",
                        help="totals only, no rows")
    args = parser.parse_args(argv)
    found = predict(read_rows(args.files, args.source, args.limit))
    known = [(p.case, p.predicted_s) for p in found
             if p.case is not None and p.predicted_s is not None]
    choices = [
        choose(case)
        for case, _ in tqdm(known, "searching", leave=False, disable=None)
    ]
    if not args.brief:
        for choice in choices:
            for line in _lines(choice, args.better):
                print(line)
    for line in (*_by_source(choices), *_totals(choices),
                 *_ranked(regrets(known))):
        print(line)
    return 0


def _lines(choice: Choice, better: float) -> Iterator[str]:
    case = choice.case
    yield (f"{case.id}: {format_time(choice.own_s)} as published, "
           f"{format_time(choice.best_s)} at best ({choice.gain:.1%} less, "
           f"{choice.tried} fit)")
    if choice.gain < better:
        return
    changes = ", ".join(f"{name} {_text(name, a)} -> {_text(name, b)}"
                        for name, (a, b) in choice.changes.items())
    yield (f"  {changes}; {format_bytes(choice.own_bytes)} -> "
           f"{format_bytes(choice.best_bytes)}")
    largest = sorted(choice.parts.items(), key=lambda kv: -abs(kv[1]))[:4]
    yield "  " + ", ".join(
        f"{name} {'+' if s > 0 else '-'}{format_time(abs(s))}"
        for name, s in largest if s)


def _text(name: str, value: int) -> str:
    return _NAMES[name][value] if name in _NAMES else str(value)


def _by_source(choices: Sequence[Choice]) -> Iterator[str]:
    """Little is left to gain where authors tuned their runs; most is where
    they measured what a model of cost should know."""
    gains: dict[str, list[float]] = {}
    for choice in choices:
        gains.setdefault(choice.case.source, []).append(choice.gain)
    yield " rows  median gain    p90"
    for source, own in sorted(gains.items(), key=lambda kv: np.median(kv[1])):
        yield (f"{len(own):5d} {np.median(own):12.1%} "
               f"{np.quantile(own, 0.9):6.1%}   {source}")


def _totals(choices: Sequence[Choice]) -> Iterator[str]:
    if not choices:
        yield "no row can be read"
        return
    gains = np.array([c.gain for c in choices])
    yield (
        f"{len(choices)} runs: the choice is predicted to be slower in "
        f"{int((gains < -1e-9).sum())}, the same in "
        f"{int((gains <= 1e-9).sum())}; gain median {np.median(gains):.1%}, "
        f"p90 {np.quantile(gains, 0.9):.1%}, largest {gains.max():.1%}")


def _ranked(found: Sequence[tuple[str, int, float]]) -> Iterator[str]:
    if not found:
        return
    lost = np.array([regret for _, _, regret in found])
    yield (f"{len(found)} groups of runs that differ in their configuration "
           f"alone: the one predicted best is the best measured in "
           f"{int((lost <= 0).sum())}, within 5% of it in "
           f"{int((lost <= 0.05).sum())}; slower by {lost.mean():.1%} in the "
           f"mean, {np.quantile(lost, 0.9):.1%} at p90")


if __name__ == "__main__":
    sys.exit(piped(main))
