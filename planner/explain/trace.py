"""The predicted step in the trace event format of Chrome and Perfetto."""

from __future__ import annotations

from typing import Any

from planner.explain.timeline import COMMUNICATION, COMPUTE, Span, Timeline

__all__ = ["trace_events"]

_THREADS = {COMPUTE: 0, COMMUNICATION: 1}


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """Ranks as processes, streams as threads, times in microseconds.

    Source: "Trace Event Format", the JSON object format of the Chromium
    project. Messages may overlap on a thread, so each has a begin and an
    end event of its own id.
    """
    events = [
        e for r, name in enumerate(timeline.ranks) for e in _names(r, name)
    ]
    for number, span in enumerate(timeline.spans):
        if span.kind == "message":
            events += _overlapping(span, number)
        else:
            events.append(
                _event(span, "X", span.start_s)
                | {"dur": (span.end_s - span.start_s) * 1e6})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(rank: int, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{
        "ph": "M",
        "name": "process_name",
        "pid": rank,
        "args": {
            "name": name
        }
    }]
    for stream, thread in _THREADS.items():
        found.append({
            "ph": "M",
            "name": "thread_name",
            "pid": rank,
            "tid": thread,
            "args": {
                "name": stream
            }
        })
    return found


def _event(span: Span, phase: str, time_s: float) -> dict[str, Any]:
    return {
        "ph": phase,
        "name": span.name,
        "cat": span.kind,
        "pid": span.rank,
        "tid": _THREADS[span.stream],
        "ts": time_s * 1e6
    }


def _overlapping(span: Span, number: int) -> list[dict[str, Any]]:
    return [
        _event(span, phase, time_s) | {
            "id": number
        } for phase, time_s in (("b", span.start_s), ("e", span.end_s))
    ]
