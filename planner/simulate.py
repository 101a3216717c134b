"""Pipeline schedules on paper; ``python -m planner.simulate`` shows one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from planner.piped import piped
from planner.schedule.check import check_schedule
from planner.schedule.named import make_schedule, schedule_names
from planner.schedule.picture import format_picture
from planner.schedule.simulation import Simulation, simulate
from planner.schedule.times import (EdgeTimes, StageMemory, StageTimes,
                                    send_times)

__all__ = [
    "EdgeTimes", "Simulation", "StageMemory", "StageTimes", "main",
    "send_times", "simulate"
]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a schedule in time, and what it takes."""
    args = _arguments(argv)
    try:
        print(_report(args))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(args: argparse.Namespace) -> str:
    stages = args.ranks * args.chunks
    weight = args.backward / 2 if args.weight is None else args.weight
    times = StageTimes.uniform(stages,
                               forward_s=args.forward,
                               input_s=args.backward - weight,
                               weight_s=weight)
    schedule = make_schedule(args.schedule,
                             ranks=args.ranks,
                             microbatches=args.microbatches,
                             chunks=args.chunks)
    check_schedule(schedule, stages=stages, microbatches=args.microbatches)
    found = simulate(schedule, times, p2p_s=args.p2p)
    slot = args.slot or min(t for t in times.table if t > 0)
    lines = [
        format_picture(found, slot), "", f"makespan {found.makespan_s:g}",
        f"bubble   {found.bubble_fraction:.1%}", "", "rank  idle  in flight"
    ]
    for rank, (idle,
               count) in enumerate(zip(found.idle_s, found.peak_in_flight)):
        lines.append(f"{rank:<4}  {idle:<4g}  {count}")
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m planner.simulate",
                                     description=main.__doc__)
    add = parser.add_argument
    add("--schedule",
        default="1f1b",
        help=f"{', '.join(schedule_names())}, or the path of a text "
        "(default: %(default)s)")
    add("--ranks", type=int, default=4, help="default: %(default)s")
    add("--microbatches", type=int, default=8, help="default: %(default)s")
    add("--chunks",
        type=int,
        default=1,
        help="stages of each rank "
        "(default: %(default)s)")
    add("--forward",
        type=float,
        default=1.0,
        help="time of a forward (default: %(default)s)")
    add("--backward",
        type=float,
        default=2.0,
        help="time of a backward (default: %(default)s)")
    add("--weight",
        type=float,
        help="the part of it for the gradients of weights (default: half)")
    add("--p2p",
        type=float,
        default=0.0,
        help="time of a message (default: %(default)s)")
    add("--slot",
        type=float,
        help="time of a column (default: the shortest action)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(piped(main))
