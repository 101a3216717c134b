"""``python -m planner.explain``: plan a model and explain the plan."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.explain.arguments import (parse_arguments, parse_constraint,
                                       parse_mesh)
from planner.explain.compare import compare_plans, format_comparison
from planner.explain.load import load_model
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning

__all__ = ["explain", "main"]


def explain(args: argparse.Namespace) -> str:
    """What the command line asks for, as text.

    Raises
    ------
    ValueError
        Whose text says what to change.
    """
    plans = [
        Plan.load(_existing(p))
        for p in args.compare or ([args.plan] if args.plan else [])
    ]
    meshes = [plans[0].mesh] if plans else parse_mesh(args.mesh)
    constraints = Constraints([parse_constraint(c) for c in args.constraint])
    planning = _planning(args, meshes, constraints)
    if args.compare:
        priced = [(p, planning.of_plan(p)) for p in plans]
        comparison = compare_plans(*priced)
        return (_json(comparison)
                if args.json else format_comparison(comparison))
    chosen, found = _chosen(planning, plans, meshes)
    if args.save:
        planning.plan_of(chosen).save(args.save)
    report = build_report(planning, chosen, found, top=args.top, meshes=meshes)
    return _json(report) if args.json else format_report(report)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no plan {str(path)!r}; --save writes one")
    return path


def _json(data: dict[str, object]) -> str:
    return json.dumps(data, indent=2) + "\n"


def _planning(args: argparse.Namespace, meshes: Sequence[MeshSpec],
              constraints: Constraints) -> Planning:
    cluster = _cluster(args.cluster, meshes[0].world_size)
    loaded = load_model(args.model,
                        batch=args.batch,
                        sequence=args.seq,
                        dtype=args.dtype)
    program = capture(loaded.model,
                      loaded.inputs,
                      loss_fn=loaded.loss_fn,
                      opaque=constraints.allows_opaque())
    limit = args.memory_limit_gib
    return Planning(program,
                    cluster,
                    constraints=constraints,
                    optimizer=args.optimizer,
                    memory_limit_bytes=int(limit * 2**30) if limit else None)


def _cluster(name: str, world_size: int) -> ClusterSpec:
    """The named cluster; one without sizes is as large as the mesh."""
    cluster = load_cluster(name)
    if cluster.num_devices < world_size and ":" not in name:
        cluster = cluster.resized(world_size)
    if cluster.num_devices < world_size:
        raise ValueError(f"--cluster {name} has {cluster.num_devices} "
                         f"devices and --mesh {world_size}; make the mesh "
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
    chosen = planning.of_plan(plans[0])
    return chosen, [chosen, *planning.candidates(meshes)]


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
    sys.exit(main())
