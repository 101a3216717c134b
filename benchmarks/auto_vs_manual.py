"""The automatic plan against every recipe and product of recipes, measured.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.auto_vs_manual`` from the root,
or the file itself. Real gloo ranks train each model (forward and backward)
under the plan of the search, made on the profile of this machine that
``python -m planner.profile`` keeps, and under all recipes that suit its
ranks; the plans take turns, and those that are clearly slower drop out after
a few. It prints how much longer than the best of all the automatic plan
takes, and why plans that can't run could not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.ir.errors import LayoutError  # noqa: E402
from planner.ir.errors import InfeasiblePlan, ScheduleError
from planner.recipes import Recipe  # noqa: E402
from scaletorch import auto_parallelize, models, parallel  # noqa: E402

__all__ = [
    "AUTO", "MODELS", "Manual", "Row", "format_rows", "main", "manuals",
    "model_and_batch"
]

AUTO = "automatic"
_ROUNDS_ALL = 3
_CLEARLY = 1.3
"""Times the best, from which a plan drops out."""

MODELS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("gpt2", {
        "width": 256,
        "depth": 4,
        "heads": 4,
        "vocabulary_size": 1024
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "llama": ("llama3-8b", {
        "width": 256,
        "depth": 4,
        "heads": 8,
        "kv_heads": 4,
        "hidden_width": 512,
        "vocabulary_size": 2048
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "long": ("llama3-8b", {
        "width": 128,
        "depth": 2,
        "heads": 8,
        "kv_heads": 4,
        "hidden_width": 256,
        "vocabulary_size": 512
    }, {
        "batch_size": 2,
        "sequence_length": 1024
    }),
    "bert": ("bert-base", {
        "width": 192,
        "depth": 4,
        "heads": 4,
        "vocabulary_size": 1024
    }, {
        "batch_size": 16,
        "sequence_length": 64
    }),
    "t5": ("t5-small", {
        "width": 128,
        "depth": 2,
        "heads": 4,
        "head_dim": 32,
        "hidden_width": 512,
        "vocabulary_size": 1024
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
    "vit": ("vit-b16", {
        "width": 192,
        "depth": 4,
        "heads": 4,
        "image": 64,
        "patch": 8,
        "classes": 16
    }, {
        "batch_size": 16
    }),
    "experts": ("qwen3-30b-a3b", {
        "width": 128,
        "depth": 2,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 32,
        "hidden_width": 256,
        "vocabulary_size": 512,
        "router": {
            "experts": 4,
            "active": 2
        }
    }, {
        "batch_size": 8,
        "sequence_length": 64
    }),
}
"""Registered name, its config's overrides, and the size of the batch."""

_RECIPES: Mapping[str, Sequence[Callable[[], Recipe]]] = {
    "dp": (parallel.ddp, parallel.zero1, parallel.fsdp),
    "tp":
    (parallel.megatron, lambda: parallel.megatron(sequence_parallel=True)),
    "cp": (parallel.ulysses, parallel.ring, parallel.gather_kv),
    "ep": (parallel.expert, ),
    "pp": (lambda: parallel.pipeline(microbatches=4), ),
}
_AXES = ("pp", "dp", "cp", "ep", "tp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """A product of recipes and its mesh."""

    recipe: Recipe
    axes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        sizes = " x ".join(f"{axis}={size}" for axis, size in self.axes)
        return f"{self.recipe.name} ({sizes})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model under one plan; `reason` where it can't run.

    `uses` says what the automatic plan uses each axis for.
    """

    ranks: int
    model: str
    plan: str
    uses: str = ""
    predicted_s: float | None = None
    measured_s: float | None = None
    reason: str = ""


def manuals(ranks: int) -> Iterator[Manual]:
    """Every recipe over all ranks, and products of two over halves."""
    for axis in _AXES:
        for build in _RECIPES[axis]:
            yield Manual(recipe=build(), axes=((axis, ranks), ))
    if ranks % 2 or ranks < 4:
        return
    for first, second in itertools.combinations(_AXES, 2):
        for one, other in itertools.product(_RECIPES[first], _RECIPES[second]):
            yield Manual(recipe=one() * other(),
                         axes=((first, 2), (second, ranks // 2)))


def model_and_batch(name: str) -> tuple[nn.Module, Any]:
    """The same on every rank."""
    registered, overrides, batch = MODELS[name]
    fields = dict(overrides)
    if "router" in fields:
        router = models.config(registered).router
        fields["router"] = type(router)(**fields["router"])
    torch.manual_seed(0)
    model = models.build(registered, **fields)
    return model, model.example_inputs(**batch)  # type: ignore[operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """A plan that is ready to run."""

    name: str
    uses: str
    predicted_s: float
    step: Callable[[], None]


def _runner(name: str, manual: Manual | None,
            arguments: argparse.Namespace) -> _Runner:
    model, inputs = model_and_batch(name)
    mesh = dist.get_world_size() if manual is None else init_device_mesh(
        "cpu",
        tuple(size for _, size in manual.axes),
        mesh_dim_names=tuple(axis for axis, _ in manual.axes))
    module = auto_parallelize(model,
                              mesh,
                              example_inputs=inputs,
                              plan=manual and manual.recipe,
                              cluster=arguments.cluster)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})

    def step() -> None:
        out = module(*args, **kwargs)
        getattr(out, "loss", out).backward()
        module.zero_grad(set_to_none=True)

    plan = module.plan
    uses = ", ".join(
        f"{axis}={size} {plan.axes[axis]}"
        for axis, size in zip(plan.mesh.names, plan.mesh.sizes, strict=True))
    return _Runner(name=manual.name if manual else AUTO,
                   uses="" if manual else uses,
                   predicted_s=plan.prediction["step_time_s"],
                   step=step)


def _timed_s(step: Callable[[], None]) -> float:
    """Seconds until all ranks have done a step."""
    dist.barrier()
    start = time.perf_counter()
    step()
    dist.barrier()
    return time.perf_counter() - start


def _compared(name: str, arguments: argparse.Namespace) -> list[Row]:
    """All plans of a model, in turns."""
    ranks = dist.get_world_size()
    runners, rows = [], []
    for manual in (None, *manuals(ranks)):
        try:
            runner = _runner(name, manual, arguments)
            runner.step()
            runners.append(runner)
        except (InfeasiblePlan, LayoutError, ScheduleError,
                ValueError) as error:
            rows.append(
                Row(ranks=ranks,
                    model=name,
                    plan=manual.name if manual else AUTO,
                    reason=str(error)))
    made = list(runners)
    times_s: dict[str, list[float]] = {r.name: [] for r in made}
    for number in range(arguments.rounds):
        for runner in runners:
            times_s[runner.name].append(_timed_s(runner.step))
        if number + 1 == _ROUNDS_ALL:
            runners = _left(runners, times_s)
    ran = {r.name: r for r in made}
    return [
        Row(ranks=ranks,
            model=name,
            plan=plan,
            uses=ran[plan].uses,
            predicted_s=ran[plan].predicted_s,
            measured_s=statistics.median(found))
        for plan, found in times_s.items()
    ] + rows


def _left(runners: Sequence[_Runner],
          times_s: Mapping[str, Sequence[float]]) -> list[_Runner]:
    """Those that may still be the best, alike on all ranks."""
    medians = [statistics.median(times_s[r.name]) for r in runners]
    shared = torch.tensor(medians, dtype=torch.float64)
    dist.broadcast(shared, 0)
    limit_s = _CLEARLY * float(shared.min())
    return [
        r for r, time_s in zip(runners, shared.tolist(), strict=True)
        if time_s <= limit_s or r.name == AUTO
    ]


def _rank(rank: int, ranks: int, arguments: argparse.Namespace,
          folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store-{ranks}", ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    for name in arguments.models:
        rows = _compared(name, arguments)
        if rank == 0:
            path = Path(folder) / f"{ranks}-{name}.json"
            path.write_text(json.dumps([asdict(r) for r in rows]),
                            encoding="utf-8")
            print(format_rows(rows), end="", flush=True)
    dist.destroy_process_group()


def format_rows(rows: Sequence[Row]) -> str:
    """The plans of one model on some ranks, the quickest first."""
    ran = sorted((r for r in rows if r.measured_s is not None),
                 key=lambda r: r.measured_s or 0.0)
    lines = [f"{rows[0].model} on {rows[0].ranks} ranks"]
    for row in ran:
        mark, name = (("*", f"{AUTO} ({row.uses})") if row.plan == AUTO else
                      (" ", row.plan))
        predicted = ("" if row.predicted_s is None else
                     f"  predicted {1e3 * row.predicted_s:8.2f} ms")
        lines.append(f"{mark} {name:44.44} "
                     f"{1e3 * (row.measured_s or 0):8.2f} ms{predicted}")
    lines += [
        f"  {row.plan:44.44} can't run: {row.reason.splitlines()[0]:.120}"
        for row in rows if row.reason
    ]
    own = [r.measured_s for r in ran if r.plan == AUTO]
    others = [r.measured_s for r in ran if r.plan != AUTO]
    if own and others:
        lines.append(f"  automatic / best recipe = "
                     f"{(own[0] or 0.0) / min(o or 0.0 for o in others):.3f}")
    return "\n".join(lines) + "\n\n"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; mistakes end the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--ranks", type=int, nargs="*", default=[2, 4])
    add("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    add("--rounds", type=int, default=11)
    add("--cluster",
        default="local",
        help="what is planned for (default: the profile of this machine)")
    add("--json", type=Path, metavar="FILE", help="also write all rows")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each model and number of ranks."""
    arguments = parse_arguments(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in arguments.ranks:
            mp.spawn(_rank, (ranks, arguments, folder), nprocs=ranks)
        for path in sorted(Path(folder).glob("*.json")):
            rows += json.loads(path.read_text(encoding="utf-8"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n",
                                  encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
