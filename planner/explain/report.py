"""The report as plain data; text and JSON are two ways to print it.

The keys are documented in ``doc/explain.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from planner.batches import Batched, best_batch
from planner.candidate import Candidate
from planner.cluster.axis import step_link
from planner.cost.plan_price import CollectivePrice
from planner.explain.batches import batches_report
from planner.explain.broken import broken_by
from planner.explain.causes import bubble_s, copies_s, delta, waiting_s
from planner.explain.communication import (bytes_by_axis, exposures,
                                           spent_by_axis, spent_by_place)
from planner.explain.devices import devices_report, shares_report
from planner.explain.findings import binding_constraint, ring_refusals
from planner.explain.fit import fit_report
from planner.explain.opaque import opaque_modules
from planner.explain.pipeline import pipeline_report
from planner.explain.sensitivity import sensitivity
from planner.explain.uneven import uneven_dims
from planner.explain.work import work_report
from planner.fit import Fit
from planner.infeasible import fitting_changes, tightest_rank
from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import Layout, format_layout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import value_kind
from planner.joint.space import SHARDINGS
from planner.planning import Planning
from planner.undivided import unused_axes
from planner.variation import without

__all__ = ["VERSION", "build_report"]

VERSION = 1
_REPEATED = 5
_NOTABLE = 1e-5
"""Share of a step from which repeated work is told."""


def build_report(
        planning: Planning,
        chosen: Candidate,
        found: Sequence[Candidate],
        *,
        top: int = 5,
        meshes: Sequence[MeshSpec] = (),
        halved: Planning | None = None,
        fit: Fit | None = None,
        batches: Sequence[Batched] = (),
) -> dict[str, Any]:
    """Everything that is known about a plan.

    Parameters
    ----------
    planning : Planning
    chosen : Candidate
        What is explained.
    found : sequence of Candidate
        What was considered, best first.
    top : int
        How many alternatives are told.
    meshes : sequence of MeshSpec
        Over which constraints are lifted; none to leave that out.
    halved : Planning, optional
        Of the same model on half the batch, to tell what that changes.
    fit : Fit, optional
        Where the number of devices was asked for.
    batches : sequence of Batched
        Where the global batch was searched.
    """
    solution = _solution(planning, chosen)
    rest = [c for c in found if c is not chosen]
    broken = broken_by(planning, chosen)
    allowed = rest if broken and rest else [chosen, *rest]
    constraints = _constraints(planning, allowed, meshes)
    return {
        "version":
        VERSION,
        **_subject(planning, chosen),
        "broken":
        broken,
        "fit":
        fit and fit_report(fit),
        "batches":
        batches_report(batches, best_batch(batches)) if batches else None,
        "work":
        work_report(planning, chosen),
        "solution":
        solution,
        **_costs(planning, chosen),
        "uneven": [
            *unused_axes(chosen.policies, planning.program, chosen.layout),
            *uneven_dims(planning.facts, _divided(chosen))
        ],
        "unavailable":
        ring_refusals(planning, chosen.solution.layout.mesh),
        "binding":
        binding_constraint(planning, chosen, found, _kept(constraints,
                                                          broken)),
        "what_fits":
        fitting_changes(planning, chosen),
        "considered":
        len(found),
        "candidates":
        _candidates(planning, chosen, rest),
        "scored":
        _scored(planning, found),
        "alternatives": [
            _alternative(planning, chosen, c)
            for c in _distinct([chosen, *rest])[1:top + 1]
        ],
        "constraints":
        constraints,
        "sensitivity":
        sensitivity(planning, chosen, found, halved=halved),
    }


def _subject(planning: Planning, chosen: Candidate) -> dict[str, Any]:
    """Of what the report is."""
    return {
        "model": planning.program.model_name,
        "cluster": planning.cluster.name,
        "mesh": _mesh(chosen.mesh),
        "plan": chosen.name,
        "layouts_over": list(chosen.layout.mesh.names),
    }


def _costs(planning: Planning, chosen: Candidate) -> dict[str, Any]:
    """What the plan takes, by cause."""
    return {
        "time":
        _time(chosen),
        "axes":
        _axes(planning, chosen),
        "communication": [{
            "where": where,
            "axis": axis,
            "time_s": time_s,
            "exposed_s": exposed_s
        } for (where, axis), (time_s,
                              exposed_s) in spent_by_place(chosen).items()],
        "devices":
        devices_report(planning, chosen),
        "shares":
        shares_report(planning, chosen),
        "pipeline":
        pipeline_report(planning, chosen),
        "memory":
        _memory(planning, chosen),
        "blocks":
        _blocks(planning, chosen),
        "between_blocks":
        _collectives(chosen, "between blocks"),
        "repeated_work":
        _repeated(chosen),
        "exposed":
        _exposed(chosen),
        "opaque":
        opaque_modules(planning.program, chosen.price),
    }


def _solution(planning: Planning, chosen: Candidate) -> dict[str, Any]:
    """Taken before the report prices anything more."""
    searched = planning.searched
    value_s = chosen.bounded_s
    # No search has a bound where the constraints exclude all plans.
    least_s = (chosen.bound_s
               if math.isinf(searched.bound_s) else searched.bound_s)
    bound_s = min(least_s, value_s)
    return {
        "value": value_s,
        "bound": bound_s,
        "gap": 1 - bound_s / max(value_s, 1e-30),
        "bound_of": searched.bound_of,
        "visited": searched.visited,
        "pruned": searched.pruned,
        "seconds": searched.seconds,
        "uncut": searched.uncut,
    }


def _candidates(planning: Planning, chosen: Candidate,
                rest: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The search space; the first one is explained."""
    return [{
        "plan": c.name,
        "step_s": c.time_s,
        "memory_bytes": c.memory.total,
        "fits": planning.fits(c),
    } for c in (chosen, *rest)]


def _scored(planning: Planning,
            found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Splits of the devices of which no plan was priced, the quickest first."""
    priced = {_split(_mesh(c.mesh)) for c in found}
    limit_bytes = planning.memory_limit_bytes
    return [{
        "mesh": mesh,
        "least_step_s": score.time_s,
        "memory_bytes": score.memory_bytes,
        "fits": score.memory_bytes <= limit_bytes,
    } for score, mesh in sorted(
        ((s, s.point.sizes) for s in planning.searched.scored),
        key=lambda pair: (pair[0].time_s, str(pair[1])))
            if _split(mesh) not in priced]


def _split(mesh: dict[str, int]) -> frozenset[tuple[str, int]]:
    """Without the order of axes, and those of one rank."""
    return frozenset((n, size) for n, size in mesh.items() if size > 1)


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """One for all that do the same under several names, the first.

    Sums of the same parts in another order differ in their last digits.
    """
    kept: dict[Any, Candidate] = {}
    for each in found:
        same = (tuple(_mesh(each.mesh).items()), f"{each.time_s:.6g}",
                f"{each.memory.total:.6g}")
        kept.setdefault(same, each)
    return list(kept.values())


def _divided(chosen: Candidate) -> MeshSpec:
    """The axes over which more than the batch might be divided."""
    mesh = chosen.solution.layout.mesh
    kept = [(n, size) for n, size in zip(mesh.names, mesh.sizes, strict=True)
            if chosen.axes.get(n, MICROBATCH) not in (MICROBATCH, *SHARDINGS)]
    return MeshSpec(tuple(n for n, _ in kept), tuple(s for _, s in kept))


def _mesh(mesh: MeshSpec) -> dict[str, int]:
    return dict(zip(mesh.names, mesh.sizes, strict=True))


def _time(chosen: Candidate) -> dict[str, float]:
    price = chosen.price
    return {
        "step_s": chosen.time_s,
        "forward_s": price.forward_s,
        "backward_s": price.backward_s,
        "recompute_s": price.recompute_s,
        "local_s": copies_s(chosen),
        "optimizer_s": chosen.optimizer_s,
        "communication_s": sum(a for a, _ in spent_by_axis(chosen).values()),
        "exposed_s": sum(b for _, b in spent_by_axis(chosen).values()),
        **_beside(chosen),
        "waiting_s": waiting_s(chosen),
        "bubble_s": bubble_s(chosen),
        "bound_s": chosen.bound_s,
        "bound_overlaps": chosen.overlaps,
        "gap": chosen.gap,
    }


def _beside(chosen: Candidate) -> dict[str, float]:
    """What a step takes beside compute, copies and communication."""
    step = chosen.price.step
    return {
        "straggling_s": step.straggling_s if step else 0.0,
        "interference_s": step.interference_s if step else 0.0,
        "host_s": step.host_s if step else 0.0,
        "around_s": step.around_s if step else 0.0,
    }


def _exposed(chosen: Candidate) -> list[dict[str, Any]]:
    """Messages that the rank waits for, the longest first."""
    own = [e for e in exposures(chosen) if e.exposed_s > 0]
    own.sort(
        key=lambda e: (-e.exposed_s, e.where, e.value, e.axis, e.direction))
    return [{
        "where": e.where,
        "value": e.value,
        "kind": e.kind,
        "axis": e.axis,
        "direction": e.direction,
        "bytes": e.size_bytes,
        "time_s": e.time_s,
        "exposed_s": e.exposed_s,
        "count": e.count
    } for e in own]


def _axes(planning: Planning, chosen: Candidate) -> list[dict[str, Any]]:
    traffic, spent = bytes_by_axis(chosen), spent_by_axis(chosen)
    mesh = chosen.solution.layout.mesh
    links = dict(
        zip(mesh.names,
            planning.tables(mesh, chosen.mesh).cost.axes,
            strict=True))
    if chosen.pipeline is not None:
        axis, whole = chosen.pipeline.axis, chosen.mesh
        links[axis] = step_link(planning.cluster, whole.sizes,
                                whole.index(axis))
    excess: dict[str, float] = {}
    for part in chosen.price.repeated:
        excess[part.axis] = excess.get(part.axis, 0.0) + part.excess_s
    return [{
        "axis": name,
        "size": size,
        "use": chosen.axes[name],
        "tier": links[name].tier if name in links else "",
        "bytes": traffic.get(name, 0.0),
        "time_s": spent.get(name, (0.0, 0.0))[0],
        "exposed_s": spent.get(name, (0.0, 0.0))[1],
        "repeated_s": excess.get(name, 0.0),
    } for name, size in zip(chosen.mesh.names, chosen.mesh.sizes, strict=True)]


def _memory(planning: Planning, chosen: Candidate) -> dict[str, Any]:
    return {
        "total_bytes": chosen.memory.total,
        "limit_bytes": planning.limits.of(chosen),
        "where": tightest_rank(chosen),
        "by_kind": chosen.memory.by_kind()
    }


def _blocks(planning: Planning, chosen: Candidate) -> list[dict[str, Any]]:
    program = planning.program
    first = {b.block_class: b for b in reversed(program.blocks)}
    return [{
        "class": name,
        "count": planning.facts.counts[name],
        "first": first[name].name,
        "recomputed": name in chosen.layout.recompute,
        "parameters": _parameters(planning, chosen, name),
        "collectives": _collectives(chosen, name),
    } for name in program.classes]


def _parameters(planning: Planning, chosen: Candidate,
                name: str) -> list[dict[str, Any]]:
    program, layout = planning.program, chosen.layout
    block = next(b for b in program.blocks if b.block_class == name)
    hubs = layout.classes[name].hubs
    found = []
    for node, bound in zip(program.classes[name].placeholders,
                           block.operands,
                           strict=True):
        if value_kind(bound) == "param":
            found.append({
                "name": node.meta["label"],
                "shape": list(program.specs[bound].shape),
                "at_rest": format_layout(layout.at_rest[bound]),
                "in_use": _value_layout(hubs[node.meta["label"]]),
                "regathered": bound in layout.regather,
            })
    return found


def _value_layout(layout: Layout) -> str:
    """``R`` and ``V`` differ in the gradient only."""
    return " ".join("R" if p.is_replicated else str(p) for p in layout)


def _collectives(chosen: Candidate, where: str) -> list[dict[str, Any]]:
    """Of one block, the most expensive first."""
    own = [c for c in chosen.price.collectives if c.where == where]
    return [
        _collective(c) for c in sorted(
            own,
            key=lambda c: (-c.time_s / c.count, c.value, c.axis, c.direction))
    ]


def _collective(c: CollectivePrice) -> dict[str, Any]:
    return {
        "value": c.value,
        "kind": c.kind,
        "axis": c.axis,
        "direction": c.direction,
        "bytes": c.size_bytes,
        "time_s": c.time_s / c.count,
        "count": c.count
    }


def _repeated(chosen: Candidate) -> list[dict[str, Any]]:
    """Calls whose division would save most."""
    parts = sorted(chosen.price.repeated,
                   key=lambda p: (-p.excess_s, p.where, p.call, p.axis))
    return [{
        "block": p.where,
        "call": p.call,
        "axis": p.axis,
        "costs_s": p.excess_s
    } for p in parts[:_REPEATED] if p.excess_s > _NOTABLE * chosen.time_s]


def _alternative(planning: Planning, chosen: Candidate,
                 other: Candidate) -> dict[str, Any]:
    excess = planning.excess_bytes(other)
    return {
        "plan": other.name,
        "mesh": _mesh(other.mesh),
        "step_s": other.time_s,
        "memory_bytes": other.memory.total,
        "fits": excess == 0,
        "memory_excess_bytes": excess,
        "delta_s": delta(chosen, other),
    }


def _constraints(planning: Planning, considered: Sequence[Candidate],
                 meshes: Sequence[MeshSpec]) -> list[dict[str, Any]]:
    """What lifting each constraint alone would gain over the best of what
    was considered and keeps all; a given plan may be slower for other
    reasons."""
    found, best = [], min(considered, key=planning.rank)
    for item in planning.constraints.restricting if meshes else ():
        lifted = without(planning, item)
        others = _found(lifted, meshes)
        fits = bool(others) and lifted.fits(others[0])
        time_s = others[0].time_s if fits else best.time_s
        found.append({
            "constraint": str(item),
            "step_s_without": time_s,
            "fits_without": fits,
            "costs_s": max(0.0, best.time_s - time_s)
        })
    return found


def _kept(constraints: Sequence[dict[str, Any]],
          broken: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Those that a plan keeps, and may be held back by."""
    names = [b["constraint"] for b in broken]
    return [c for c in constraints if c["constraint"] not in names]


def _found(planning: Planning, meshes: Sequence[MeshSpec]) -> list[Candidate]:
    try:
        return planning.candidates(meshes)
    except InfeasiblePlan:
        return []
