"""``python -m planner.profile``: measure this machine for the planner."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.cluster.local import LOCAL
from planner.profile.job import Job, Refused
from planner.profile.report import format_profile
from planner.profile.run import DEFAULT_BUDGET_S, profile

__all__ = ["main"]

_INTERRUPTED = 130


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m planner.profile",
        description="Measure this machine, alone or under torchrun, and fit "
        "a cluster on it that auto_parallelize and --cluster local use. What "
        "is measured is kept: a run that was stopped goes on.")
    add = parser.add_argument
    add("--budget-s",
        type=float,
        default=DEFAULT_BUDGET_S,
        metavar="S",
        help="seconds after which no measurement is begun (default: "
        "%(default)g)")
    add("--device",
        metavar="TYPE",
        help="cpu, cuda, ... (default: the accelerator, else the CPU)")
    add("--refresh", action="store_true", help="measure again what is known")
    add("--out",
        type=Path,
        metavar="FILE",
        help="write the YAML here and not to the cache")
    add("--name", default=LOCAL, help="of the cluster (default: %(default)s)")
    add("--cache",
        type=Path,
        metavar="FOLDER",
        help="where profiles and raw points are kept (default: the user's "
        "cache)")
    args = parser.parse_args(argv)
    if not args.budget_s > 0:
        parser.error(f"--budget-s must be positive, got {args.budget_s:g}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 2 for what can't be done."""
    args = _arguments(argv)
    try:
        job = Job.joined(args.device)
        try:
            made = profile(job,
                           budget_s=args.budget_s,
                           refresh=args.refresh,
                           folder=args.cache,
                           out=args.out,
                           name=args.name)
        finally:
            job.leave()
    except (Refused, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped: what was measured is kept, and the same "
                         "command goes on from there\n")
        return _INTERRUPTED
    if job.is_first:
        sys.stdout.write(format_profile(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
