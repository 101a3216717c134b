"""The automatic plan against every recipe and product of recipes, measured.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.auto_vs_manual`` from the root,
or the file itself. Real gloo ranks train each model (forward, backward and a
fused AdamW, all of which is predicted) under the plan of the search, made on
the profile of this machine that ``python -m planner.profile`` keeps, under the
best one without stages, which is what ``auto_parallelize`` takes on a mesh
without names, and under recipes: each over all ranks, and the products of two
that are predicted to be quickest (``--products``, ``--all``). All are planned
once, before ranks start. The plans take turns, and those that are clearly
slower drop out after a few. A time is the lower quartile of a plan's rounds.
It prints how much longer than the best of all the automatic plan takes, and
why plans that can't run could not. Under ``torchrun`` (or on simulated hosts,
``scripts/netns_cluster.sh run``) its ranks are those of the job.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import fused_adamw  # noqa: E402
from benchmarks.contenders import Step, keep_memory, timed_s
from benchmarks.gloo_rows import rows_of_job, rows_of_ranks  # noqa: E402
from benchmarks.manual_plans import Planned  # noqa: E402
from benchmarks.manual_plans import (AUTO, MODELS, UNSTAGED, model_and_batch,
                                     planned, worth_running)
from planner.ir.errors import ScheduleError  # noqa: E402
from planner.ir.errors import InfeasiblePlan, LayoutError  # noqa: E402
from planner.ir.plan import Plan  # noqa: E402
from scaletorch import auto_parallelize  # noqa: E402

__all__ = ["Row", "compared", "format_rows", "main", "parse_arguments"]

_ROUNDS_ALL = 3
_PRODUCTS = 6
"""How many products of recipes run unless all are asked for."""
_CLEARLY = 1.3
"""Times the best, from which a plan drops out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model under one plan; `reason` where it can't run, neither that
    nor a measured time where it was not worth it.

    `uses` says what the automatic plan uses each axis for.
    """

    ranks: int
    model: str
    plan: str
    uses: str = ""
    predicted_s: float | None = None
    measured_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """A plan that is ready to run."""

    planned: Planned
    program: str
    step: Step


def _runner(name: str, planned: Planned, program: str,
            cluster: str) -> _Runner:
    model, inputs = model_and_batch(name)
    mesh = init_device_mesh("cpu",
                            tuple(size for _, size in planned.axes),
                            mesh_dim_names=tuple(n for n, _ in planned.axes))
    module = auto_parallelize(model,
                              mesh,
                              example_inputs=inputs,
                              plan=Plan.from_yaml(planned.plan),
                              cluster=cluster)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    optimizer = fused_adamw(module)

    def step() -> torch.Tensor:
        out = module(*args, **kwargs)
        loss: torch.Tensor = getattr(out, "loss", out)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return _Runner(planned=planned, program=program, step=step)


def _compared(name: str, plans: Sequence[Planned],
              arguments: argparse.Namespace) -> list[Row]:
    """Plans of a model, in turns; what is one program by two names runs once."""
    ranks = dist.get_world_size()
    programs = {p.name: p.program for p in plans}
    runners: list[_Runner] = []
    reasons: dict[str, str] = {}
    for text, each in {programs[p.name]: p for p in reversed(plans)}.items():
        try:
            runner = _runner(name, each, text, arguments.cluster)
            runner.step()
            runners.append(runner)
        except (InfeasiblePlan, LayoutError, ScheduleError,
                ValueError) as error:
            reasons[text] = str(error)
    times_s: dict[str, list[float]] = {r.program: [] for r in runners}
    for number in range(arguments.rounds):
        for runner in runners:
            times_s[runner.program].append(timed_s(runner.step))
        if number + 1 == _ROUNDS_ALL:
            runners = _left(runners, times_s)
    return [
        Row(ranks=ranks,
            model=name,
            plan=each.name,
            uses=each.uses,
            predicted_s=each.predicted_s,
            measured_s=(_undisturbed_s(times_s[programs[each.name]])
                        if programs[each.name] in times_s else None),
            reason=reasons.get(programs[each.name], "")) for each in plans
    ]


def _undisturbed_s(times_s: Sequence[float]) -> float:
    """The lower quartile: what else runs on a machine only adds to times."""
    return float(np.quantile(times_s, 0.25))


def _left(runners: Sequence[_Runner],
          times_s: Mapping[str, Sequence[float]]) -> list[_Runner]:
    """Those that may still be the best, alike on all ranks."""
    times = [_undisturbed_s(times_s[r.program]) for r in runners]
    shared = torch.tensor(times, dtype=torch.float64)
    dist.broadcast(shared, 0)
    limit_s = _CLEARLY * float(shared.min())
    return [
        r for r, time_s in zip(runners, shared.tolist(), strict=True)
        if time_s <= limit_s or r.planned.name in (AUTO, UNSTAGED)
    ]


def _all_compared(plans: Mapping[str, Sequence[Planned]],
                  arguments: argparse.Namespace) -> list[Row]:
    """All models on the process group that is up; the first rank prints."""
    found = []
    for name, made in plans.items():
        chosen = worth_running(made, arguments.products)
        rows = _compared(name, chosen, arguments)
        rows += _not_run(name, dist.get_world_size(), made, chosen)
        if dist.get_rank() == 0:
            print(format_rows(rows), end="", flush=True)
        found += rows
    return found


def _plans(ranks: int,
           arguments: argparse.Namespace) -> dict[str, list[Planned]]:
    return {n: planned(n, ranks, arguments.cluster) for n in arguments.models}


def compared(arguments: argparse.Namespace) -> list[Row]:
    """All models on the process group that is up, whose first rank plans."""
    plans: list[Any] = [
        _plans(dist.get_world_size(), arguments)
        if dist.get_rank() == 0 else None
    ]
    dist.broadcast_object_list(plans, 0)
    return _all_compared(plans[0], arguments)


def _started(arguments: argparse.Namespace) -> list[Row]:
    """With ranks of its own, for each number of them."""
    keep_memory()
    return [
        row for ranks in arguments.ranks for row in rows_of_ranks(
            ranks, Row, _all_compared, _plans(ranks, arguments), arguments)
    ]


def _not_run(name: str, ranks: int, made: Sequence[Planned],
             chosen: Sequence[Planned]) -> list[Row]:
    """Those that are illegal, and those that are predicted to be slow."""
    return [
        Row(ranks=ranks,
            model=name,
            plan=p.name,
            predicted_s=None if p.reason else p.predicted_s,
            reason=p.reason) for p in made if p not in chosen
    ]


def format_rows(rows: Sequence[Row]) -> str:
    """The plans of one model on some ranks, the quickest first."""
    ran = sorted((r for r in rows if r.measured_s is not None),
                 key=lambda r: r.measured_s or 0.0)
    lines = [f"{rows[0].model} on {rows[0].ranks} ranks"]
    for row in ran:
        mark = "*" if row.plan in (AUTO, UNSTAGED) else " "
        name = f"{row.plan} ({row.uses})" if row.uses else row.plan
        predicted = ("" if row.predicted_s is None else
                     f"  predicted {1e3 * row.predicted_s:8.2f} ms")
        lines.append(f"{mark} {name:44.44} "
                     f"{1e3 * (row.measured_s or 0):8.2f} ms{predicted}")
    lines += [
        f"  {row.plan:44.44} can't run: {row.reason.splitlines()[0]:.120}"
        for row in rows if row.reason
    ]
    slow = [r for r in rows if r.measured_s is None and not r.reason]
    if slow:
        quickest_s = min(r.predicted_s or 0.0 for r in slow)
        lines.append(
            f"  not run, since predicted to be slower: {len(slow)} of "
            f"the products ({1e3 * quickest_s:.2f} ms or more)")
    others = [r.measured_s or 0.0 for r in ran if not r.uses]
    for name in (AUTO, UNSTAGED):
        own = [r.measured_s or 0.0 for r in ran if r.plan == name]
        if own and others:
            lines.append(f"  {name} / best recipe = "
                         f"{own[0] / min(others):.3f}")
    return "\n".join(lines) + "\n\n"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--ranks", type=int, nargs="*", default=[2, 4])
    add("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    add("--rounds", type=int, default=15)
    add("--products",
        type=int,
        default=_PRODUCTS,
        metavar="N",
        help="run the N products of recipes that are predicted to be "
        "quickest (default: %(default)s)")
    add("--all",
        dest="products",
        action="store_const",
        const=None,
        help="run all products of recipes")
    add("--cluster",
        default="local",
        help="what is planned for (default: the profile of this machine)")
    add("--json", type=Path, metavar="FILE", help="also write all rows")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each model and number of ranks."""
    arguments = parse_arguments(argv)
    rows = (rows_of_job(lambda: compared(arguments))
            if "RANK" in os.environ else _started(arguments))
    if arguments.json and rows:
        text = json.dumps([asdict(r) for r in rows], indent=1)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
