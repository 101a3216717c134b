"""``python -m planner.explain``: plan a model and explain the plan."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.batches import (Batched, best_batch, rows_of, search_batches,
                             with_rows)
from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.choices import factorisations
from planner.cluster import load_cluster
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.explain.arguments import (BATCH, parse_arguments,
                                       parse_constraint, parse_mesh,
                                       parse_range)
from planner.explain.checks import check_arguments
from planner.explain.compare import compare_plans, format_comparison
from planner.explain.dot import format_dot
from planner.explain.load import Loaded, half_batch, load_model
from planner.explain.page.build import PageContent, build_page
from planner.explain.page.tree import parameter_rows
from planner.explain.progress import search_progress
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.explain.timeline import step_timeline
from planner.explain.trace import trace_events
from planner.fit import MOST_DEVICES, Fit, fewest_devices
from planner.ir.errors import CaptureError, InfeasiblePlan
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.piped import piped
from planner.planning import Planning

__all__ = ["explain", "main"]

_DEVICES = 8

Observer = Callable[[Candidate], None]


def explain(args: argparse.Namespace) -> str:
    """What the command line asks for, as text; files are written too.

    Raises
    ------
    ValueError
        Whose text says what to change.
    """
    check_arguments(args)
    with search_progress() as observer:
        return _explained(args, observer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The plan that is explained, and among what it was chosen."""

    planning: Planning
    chosen: Candidate
    found: Sequence[Candidate]
    meshes: Sequence[MeshSpec]
    fit: Fit | None = None
    batches: Sequence[Batched] = ()


def _explained(args: argparse.Namespace, observer: Observer) -> str:
    if args.compare:
        return _compared(args, observer)
    ask = (_fitted
           if args.fit else _batched if args.global_batch else _planned)
    answer = ask(args, observer)
    report = build_report(answer.planning,
                          answer.chosen,
                          answer.found,
                          top=args.top,
                          meshes=answer.meshes,
                          halved=_halved(args, answer.planning),
                          fit=answer.fit,
                          batches=answer.batches)
    if not args.model.is_file():
        report["model"] = str(args.model)  # its name, not its class
    _write(args, answer.planning, answer.chosen, report)
    return _json(report) if args.json else format_report(report)


def _compared(args: argparse.Namespace, observer: Observer) -> str:
    plans = [Plan.load(p) for p in args.compare]
    planning = _planning(args, max(p.mesh.world_size for p in plans), observer)
    planning.constraints.check_axes({n for p in plans for n in p.mesh.names})
    priced = [(p, planning.of_plan(p)) for p in plans]
    comparison = compare_plans(planning, *priced)
    return _json(comparison) if args.json else format_comparison(comparison)


def _planned(args: argparse.Namespace, observer: Observer) -> _Answer:
    """On a mesh that is given."""
    plans = [Plan.load(args.plan)] if args.plan else []
    meshes = [plans[0].mesh] if plans else _meshes(args)
    planning = _planning(args, meshes[0].world_size, observer)
    chosen, found = _chosen(planning, plans, meshes)
    return _Answer(planning=planning,
                   chosen=chosen,
                   found=found,
                   meshes=meshes)


def _meshes(args: argparse.Namespace) -> Sequence[MeshSpec]:
    """All devices of a cluster whose sizes are given, unless it is said."""
    if args.mesh is None:
        return parse_mesh(str(_given_devices(args) or _DEVICES))
    return parse_mesh(args.mesh)


def _given_devices(args: argparse.Namespace) -> int | None:
    cluster = load_cluster(args.cluster)
    return (cluster.num_devices if _has_sizes(args.cluster, cluster) else None)


def _has_sizes(name: str, cluster: ClusterSpec) -> bool:
    """Whether a cluster is as large as it is said to be."""
    return ":" in name or bool(cluster.others)


def _fitted(args: argparse.Namespace, observer: Observer) -> _Answer:
    """On as few devices as will do."""
    for name in ("mesh", "plan", "global_batch"):
        if getattr(args, name):
            raise ValueError("--fit finds the number of devices for a batch: "
                             f"leave out --{name.replace('_', '-')}")
    if load_cluster(args.cluster).others:
        raise ValueError("--fit tries clusters of many sizes, and --cluster "
                         f"{args.cluster} lists its nodes one by one "
                         "(others): leave out --fit, or others")
    most = _given_devices(args) or MOST_DEVICES
    fit = fewest_devices(_planning(args, 1, observer), most=most)
    return _Answer(planning=fit.smallest.planning,
                   chosen=fit.smallest.found[0],
                   found=fit.smallest.found,
                   meshes=factorisations(fit.smallest.devices),
                   fit=fit)


def _batched(args: argparse.Namespace, observer: Observer) -> _Answer:
    """With the global batch that gives most work per second."""
    if args.plan or args.objective == "step-time":
        raise ValueError("--global-batch searches for the most work per "
                         "second: leave out --plan and --objective")
    meshes = _meshes(args)
    sizes = parse_range(args.global_batch)
    args = argparse.Namespace(**{**vars(args), "batch": sizes.start})
    planning = _planning(args, meshes[0].world_size, observer)
    loaded = _loaded(args)

    def planning_of(rows: int) -> Planning:
        if rows == rows_of(loaded.inputs):
            return planning
        inputs = with_rows(loaded.inputs, rows)
        return planning.copied(program=_captured(
            replace(loaded, inputs=inputs), planning.constraints))

    tried = search_batches(sizes, planning_of, meshes)
    best = best_batch(tried)
    return _Answer(planning=best.planning,
                   chosen=best.found[0],
                   found=best.found,
                   meshes=meshes,
                   batches=tried)


def _write(args: argparse.Namespace, planning: Planning, chosen: Candidate,
           report: dict[str, Any]) -> None:
    """The files that are asked for."""
    program = planning.program
    plan = planning.plan_of(chosen)
    if args.save:
        plan.save(args.save)
    timeline = step_timeline(program, chosen)
    if args.trace:
        _save(args.trace, _json(trace_events(timeline)))
    if args.dot:
        _save(args.dot, format_dot(program, chosen))
    if args.html:
        content = PageContent(report=report,
                              timeline=timeline,
                              parameters=parameter_rows(program, chosen),
                              plan=plan.to_yaml())
        _save(args.html, build_page(content))


def _save(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(data: dict[str, object]) -> str:
    return json.dumps(data, indent=2) + "\n"


def _planning(args: argparse.Namespace, devices: int,
              observer: Observer) -> Planning:
    constraints = Constraints([parse_constraint(c) for c in args.constraint])
    limit = args.memory_limit_gib
    cluster = _cluster(args.cluster, devices)
    if args.price_per_device_hour is not None:
        cluster = replace(cluster,
                          price_per_device_hour=args.price_per_device_hour)
    return Planning(_captured(_loaded(args), constraints),
                    cluster,
                    constraints=constraints,
                    optimizer=args.optimizer,
                    memory_limit_bytes=int(limit * 2**30) if limit else None,
                    observer=observer,
                    time_limit_s=args.time_limit_s,
                    runners_up=args.top // 2)


def _loaded(args: argparse.Namespace) -> Loaded:
    return load_model(args.model,
                      batch=args.batch or BATCH,
                      sequence=args.seq,
                      dtype=args.dtype)


def _captured(loaded: Loaded, constraints: Constraints) -> Program:
    try:
        return capture(loaded.model,
                       loaded.inputs,
                       loss_fn=loaded.loss_fn,
                       opaque=constraints.allows_opaque())
    except CaptureError as error:
        raise CaptureError(f"{error}{loaded.remark}",
                           module_path=error.module_path) from error


def _halved(args: argparse.Namespace, planning: Planning) -> Planning | None:
    """The same on half the batch, where that is asked for."""
    if not args.half_batch:
        return None
    halved = half_batch(_loaded(args), planning.facts.lead.get(0, 1))
    return planning.copied(program=_captured(halved, planning.constraints))


def _cluster(name: str, world_size: int) -> ClusterSpec:
    """The named cluster; one without sizes is as large as the mesh."""
    cluster = load_cluster(name)
    if cluster.num_devices < world_size and not _has_sizes(name, cluster):
        cluster = cluster.resized(world_size)
    if cluster.num_devices < world_size:
        raise ValueError(f"--cluster {name} has {cluster.num_devices} "
                         f"devices and the mesh {world_size}; make the mesh "
                         "smaller or the cluster larger")
    return cluster


def _chosen(planning: Planning, plans: Sequence[Plan],
            meshes: Sequence[MeshSpec]) -> tuple[Candidate, list[Candidate]]:
    """The plan that is explained, and what else was considered."""
    if not plans:
        found = planning.candidates(meshes)
        if not found:
            return planning.best(meshes)  # raises, and says why
        # One that does not fit is explained too: the report says so.
        return found[0], found
    chosen, found = planning.of_plan(plans[0]), _others(planning, meshes)
    if found:
        chosen = _certified(planning, chosen, found[0].overlaps)
    return chosen, [chosen, *found]


def _others(planning: Planning, meshes: Sequence[MeshSpec]) -> list[Candidate]:
    """None where the constraints exclude all; a plan that is given is
    explained for all that, with those that it breaks."""
    try:
        return planning.candidates(meshes)
    except InfeasiblePlan:
        return []


def _certified(planning: Planning, chosen: Candidate,
               overlaps: bool) -> Candidate:
    """A given plan under the bound of the search for another."""
    chosen = replace(chosen, overlaps=overlaps)
    bound_s = min(planning.searched.bound_s, chosen.bounded_s)
    return replace(chosen, bound_s=bound_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 2 for a mistake in its input."""
    args = parse_arguments(argv)
    try:
        sys.stdout.write(explain(args))
    except (ValueError, TypeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
