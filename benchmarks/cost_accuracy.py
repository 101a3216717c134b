"""Predicted against measured step time, on a profile of this machine.

Run ``OMP_NUM_THREADS=1 python benchmarks/cost_accuracy.py``. For each number
of gloo ranks the machine is profiled once (what the cache has is not measured
again), then models run under several plans that take turns, a few training
steps each time: forward, backward and a fused AdamW, as in a loop, without a
barrier between them. It prints each pair, says whether the plan that is
predicted to be the quickest is within 3% of the one that is, compares the peak
of tensor memory on the rank that takes most, and tells how far the machine has
drifted since it was profiled: some of the profile's kernels have a turn among
the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.contenders import (Sizes, Step, build, keep_memory, timed_s,
                                   training_step)
from benchmarks.gloo_rows import rows_of_job, rows_of_ranks
from benchmarks.named_plans import NamedPlan, staged_plans, usual_plans
from benchmarks.predictions import Row, format_rows
from benchmarks.tensor_memory import peak_bytes, storage_bytes
from planner.capture.capture import capture
from planner.cluster.spec import ClusterSpec
from planner.ir.plan import Plan
from planner.planning import Candidate, Planning
from planner.profile.job import Job
from planner.profile.pace import at_pace, pace
from planner.profile.points import Sizes as PointSizes
from planner.profile.run import Profile, profile
from scaletorch import auto_parallelize

__all__ = ["accuracy", "main", "parse_arguments"]

_MODELS = {
    "narrow": Sizes(width=128, sequence=64),
    "wide": Sizes(width=384, layers=2),
    "long": Sizes(width=128, layers=2, batch=4, sequence=512),
}
_OTHER_MODELS = {"large": Sizes(width=512, layers=2, sequence=32)}
"""Not among all: parameters against a small batch, for shaped networks."""
_QUICK_MODELS = {"tiny": Sizes(width=32, layers=2, batch=4, sequence=16)}
_QUICK_POINTS = PointSizes(products=(64, 128),
                           elements=(2**12, 2**16),
                           sequences=(16, ),
                           messages=(2**12, 2**16),
                           dtypes=("float32", ))
_AGAIN_S = 1.5
"""For some kernels of the profile, to see how the machine has drifted."""
_AGAIN_EVERY = 3
"""Rounds of steps."""


def _wanted(ranks: int, arguments: argparse.Namespace) -> list[NamedPlan]:
    if not arguments.plans:
        return usual_plans(ranks, quick=arguments.quick)
    every = [*usual_plans(ranks, quick=False), *staged_plans(ranks)]
    return [p for p in every if p.name in arguments.plans]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A plan that is ready to run, with what was predicted."""

    named: NamedPlan
    step: Step
    candidate: Candidate
    module: torch.nn.Module
    plan: Plan
    batch: tuple[torch.Tensor, ...]


def _made(named: NamedPlan, sizes: Sizes, planning: Planning,
          spec: ClusterSpec) -> _Made:
    model, batch = build(sizes)
    names, counts = zip(*named.axes or (("", dist.get_world_size()), ))
    mesh = (init_device_mesh("cpu", counts, mesh_dim_names=names)
            if named.axes else counts[0])
    module = auto_parallelize(model,
                              mesh,
                              example_inputs=batch,
                              plan=named.recipe,
                              cluster=spec)
    assert module.plan is not None
    return _Made(named=named,
                 step=training_step(module, batch),
                 candidate=planning.of_plan(module.plan),
                 module=module,
                 plan=module.plan,
                 batch=batch)


def _memory_bytes(made: _Made) -> int:
    """The peak of tensor memory in a step, on the rank that takes most."""
    held = [
        t.to_local() if isinstance(t, DTensor) else t
        for t in (*made.module.parameters(), *made.module.buffers())
    ]
    state = made.candidate.memory.optimizer
    own = storage_bytes(held) + state + peak_bytes(made.step)
    found = torch.tensor(own)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def _measured(model: str, sizes: Sizes, profiled: Profile, job: Job,
              arguments: argparse.Namespace) -> list[Row]:
    """All plans of a model, in turns, and kernels between them."""
    torch.manual_seed(0)
    spec = profiled.cluster
    program = capture(*build(sizes))
    planning = Planning(program, spec)
    plans = _wanted(dist.get_world_size(), arguments)
    made = [_made(named, sizes, planning, spec) for named in plans]
    times_s: list[list[float]] = [[] for _ in made]
    paces = []
    for number in range(arguments.warm_up + arguments.rounds):
        if number % _AGAIN_EVERY == 0:
            paces.append(pace(job, profiled.outcome.known, budget_s=_AGAIN_S))
        for one, found in zip(made, times_s, strict=True):
            time_s = timed_s(one.step)
            if number >= arguments.warm_up:
                found.append(time_s)
    mean = statistics.mean(paces)
    paced = Planning(program, at_pace(spec, mean, device_type="cpu"))
    return [
        Row(ranks=dist.get_world_size(),
            model=model,
            plan=one.named.name,
            predicted_s=one.candidate.time_s,
            measured_s=statistics.median(found),
            predicted_bytes=one.candidate.memory.total,
            measured_bytes=_memory_bytes(one),
            pace=mean,
            paced_s=paced.of_plan(one.plan).time_s)
        for one, found in zip(made, times_s)
    ]


def accuracy(arguments: argparse.Namespace) -> list[Row]:
    """All models and plans on the process group that is up."""
    job = Job(torch.device("cpu"))
    made = profile(job,
                   budget_s=arguments.budget_s,
                   refresh=arguments.refresh,
                   folder=arguments.cache,
                   sizes=_QUICK_POINTS if arguments.quick else None)
    job.leave()
    models = _QUICK_MODELS if arguments.quick else _MODELS
    if arguments.models:
        every = {**_MODELS, **_OTHER_MODELS}
        models = {name: every[name] for name in arguments.models}
    return [
        row for name, sizes in models.items()
        for row in _measured(name, sizes, made, job, arguments)
    ]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--ranks", type=int, nargs="*", default=None)
    add("--models",
        nargs="*",
        choices=sorted({
            **_MODELS,
            **_OTHER_MODELS
        }),
        help="default: all")
    add("--plans",
        nargs="*",
        metavar="NAME",
        help="by the names of the table, or 'pipeline', 'pipeline * ddp', "
        "'pipeline * megatron' (default: all but those)")
    add("--rounds", type=int, default=None)
    add("--warm-up", type=int, default=1)
    add("--budget-s",
        type=float,
        default=None,
        help="of each profile (default: 150, quick: 3)")
    add("--cache",
        type=Path,
        default=None,
        help="folder of profiles; the user's cache if left out")
    add("--refresh",
        action="store_true",
        help="profile again what the cache has")
    add("--json", action="store_true")
    add("--quick",
        action="store_true",
        help="one tiny model on 2 ranks, to see that it works; give it a "
        "--cache of its own")
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    if quick and arguments.cache is None:
        parser.error("--quick measures too little for the user's cache: give "
                     "it a --cache of its own")
    arguments.ranks = arguments.ranks or ([2] if quick else [1, 2, 4])
    arguments.rounds = arguments.rounds or (2 if quick else 9)
    arguments.budget_s = arguments.budget_s or (3.0 if quick else 150.0)
    return arguments


def _started(arguments: argparse.Namespace) -> list[Row]:
    """With ranks of its own, for each number of them."""
    keep_memory()
    return [
        row for ranks in arguments.ranks
        for row in rows_of_ranks(ranks, Row, accuracy, arguments)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, or JSON."""
    arguments = parse_arguments(argv)
    rows = (rows_of_job(lambda: accuracy(arguments))
            if "RANK" in os.environ else _started(arguments))
    if rows:
        sys.stdout.write(
            json.dumps([asdict(r) for r in rows], indent=1) +
            "\n" if arguments.json else format_rows(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
