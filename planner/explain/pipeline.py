"""What the report says of a pipeline."""

from __future__ import annotations

from typing import Any

from planner.candidate import Candidate
from planner.planning import Planning
from planner.units import format_bytes, format_time

__all__ = ["pipeline_report", "pipeline_text"]

_NOT_EXACT = ("  each micro-batch stands for the batch where the whole is "
              "needed: a step is not quite", "  what it is on one device")


def pipeline_report(planning: Planning,
                    chosen: Candidate) -> dict[str, Any] | None:
    """Schedule, stages and ranks; None without a pipeline."""
    if chosen.pipeline is None or chosen.step is None:
        return None
    spec, step = chosen.pipeline, chosen.step
    owner = step.schedule.stage_rank
    devices = planning.limits.devices(chosen)
    return {
        "axis":
        spec.axis,
        "schedule":
        spec.schedule,
        "microbatches":
        spec.microbatches,
        "chunks":
        spec.chunks,
        "batch_statistics":
        spec.batch_statistics,
        "makespan_s":
        step.simulation.makespan_s,
        "once_s":
        step.once_s,
        "bubble_fraction":
        step.simulation.bubble_fraction,
        "stages": [{
            "stage": number,
            "rank": owner[number],
            "device": devices[owner[number]].name,
            "first_block": cut,
            "forward_s": cost.forward_s,
            "input_gradient_s": cost.input_s,
            "weight_gradient_s": cost.weight_s,
            "saved_bytes": cost.saved_bytes,
        } for number, (
            cost,
            cut) in enumerate(zip(step.stages, ("", *spec.cuts), strict=True))
                   ],
        "ranks": [{
            "rank": rank,
            "idle_s": step.simulation.idle_s[rank],
            "in_flight": step.simulation.peak_in_flight[rank],
            "memory_bytes": memory.total,
            "limit_bytes": planning.limits.on(devices[rank]),
            "by_kind": memory.by_kind(),
        } for rank, memory in enumerate(step.memory)],
    }


def pipeline_text(report: dict[str, Any] | None) -> list[str]:
    """The lines of the text report."""
    if report is None:
        return []
    lines = [
        f"pipeline over {report['axis']}: {_named(report)}, "
        f"{report['microbatches']} micro-batches, "
        f"{report['bubble_fraction']:.1%} of the ranks' time idle",
        *(() if report["batch_statistics"] == "exact" else _NOT_EXACT),
        "  stage  rank  from                  forward    inputs   weights"
        "      kept",
    ]
    mixed = len({row["device"] for row in report["stages"]}) > 1
    for row in report["stages"]:
        lines.append(f"  {row['stage']:>5}  {row['rank']:>4}  "
                     f"{row['first_block'] or 'start':<18}  "
                     f"{format_time(row['forward_s']):>9} "
                     f"{format_time(row['input_gradient_s']):>9} "
                     f"{format_time(row['weight_gradient_s']):>9} "
                     f"{format_bytes(row['saved_bytes']):>9}" +
                     (f"  {row['device']}" if mixed else ""))
    lines.append("  rank  idle       in flight  memory")
    for row in report["ranks"]:
        lines.append(
            f"  {row['rank']:>4}  {format_time(row['idle_s']):<9}  "
            f"{row['in_flight']:>9}  "
            f"{format_bytes(row['memory_bytes'])}" +
            (f" of {format_bytes(row['limit_bytes'])}" if mixed else ""))
    return lines


def _named(report: dict[str, Any]) -> str:
    schedule = report["schedule"]
    name = "a schedule of its own" if "\n" in schedule.strip() else schedule
    return f"{name} x {report['chunks']}" if report["chunks"] > 1 else name
