"""Run a config under several plans and numbers of ranks; a table of speeds.

Each run is ``python -m scaletorch.train`` under torchrun on this machine::

    python -m scripts.sweep examples/configs/gpt_tiny.yaml --ranks 1 2 \\
        --plan auto ddp fsdp "pipeline(schedule=1f1b)" --steps 10

Runs follow each other, and what else runs on the machine is part of what is
measured. The first three steps are left out of the medians. A run that fails
has its last line in the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.ir.plan import Plan

__all__ = ["Run", "main", "run", "table"]

ROOT = Path(__file__).resolve().parent.parent
_WARMUP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run came to.

    Parameters
    ----------
    plan : str
        As it was asked for.
    ranks : int
    axes : str
        The mesh that it ran on, and for what.
    tokens_per_s : float
    batch_s, expected_s : float
        The median time of a batch, and what the planner expected of it.
    memory_bytes : float
        The most on the first rank.
    loss : float
        Of the last step.
    error : str
        Why there is none of these.
    """

    plan: str
    ranks: int
    axes: str = ""
    tokens_per_s: float = 0.0
    batch_s: float = 0.0
    expected_s: float = 0.0
    memory_bytes: float = 0.0
    loss: float = 0.0
    error: str = ""


def run(config: str, plan: str, ranks: int, overrides: Sequence[str],
        steps: int) -> Run:
    """Train for some steps."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node",
            str(ranks), "-m", "scaletorch.train", config, *overrides,
            f"plan={plan}", f"train.steps={_WARMUP + steps}",
            f"checkpoint.folder={folder}", "metrics.progress=false",
            "train.evaluate_every=0", "checkpoint.best=false",
            "schedule={name: constant}"
        ],
                              env=os.environ | {
                                  "PYTHONPATH": str(ROOT),
                                  "OMP_NUM_THREADS": "1"
                              },
                              capture_output=True,
                              text=True,
                              check=False)
        if done.returncode:
            return Run(plan=plan, ranks=ranks, error=_reason(done.stderr))
        return _measured(plan, ranks, Path(folder))


def _reason(text: str) -> str:
    """The line of an output that says what went wrong."""
    lines = [
        line for line in text.splitlines() if "Error: " in line
        or line.startswith("examples/") or ".yaml: " in line
    ]
    return lines[0].partition("]: ")[2] or lines[0] if lines else "failed"


def _measured(plan: str, ranks: int, folder: Path) -> Run:
    made = Plan.load(folder / "plan.yaml")
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    warm = rows[_WARMUP:]
    return Run(plan=plan,
               ranks=ranks,
               axes=f"{made.mesh} {', '.join(made.axes.values())}".strip(),
               tokens_per_s=statistics.median(r["tokens_per_s"] for r in warm),
               batch_s=statistics.median(r["batch_s"] for r in warm),
               expected_s=made.prediction["step_time_s"],
               memory_bytes=max(r["memory_bytes"] for r in warm),
               loss=rows[-1]["loss"])


def table(runs: Iterable[Run]) -> str:
    """Markdown, the fastest first and what failed last."""
    lines = [
        "| ranks | plan | mesh | tokens/s | batch | expected | memory | loss |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    ]
    for r in sorted(runs, key=lambda r: (bool(r.error), -r.tokens_per_s)):
        told = (f"{r.error} | | | | | |" if r.error else
                f"{r.axes} | {r.tokens_per_s:,.0f} | {1e3 * r.batch_s:.1f} ms "
                f"| {1e3 * r.expected_s:.1f} ms | "
                f"{r.memory_bytes / 2**20:,.0f} MiB | {r.loss:.4f} |")
        lines.append(f"| {r.ranks} | {r.plan} | {told}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 when no run came to an end."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of scaletorch.train")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--plan", nargs="+", default=["auto"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, help="a file for the table")
    args = parser.parse_args(arguments)
    runs = []
    for ranks, plan in itertools.product(args.ranks, args.plan):
        runs.append(run(args.config, plan, ranks, args.overrides, args.steps))
        print(f"{ranks} x {plan}: {runs[-1].error or 'done'}", file=sys.stderr)
    print(table(runs))
    if args.output:
        args.output.write_text(table(runs) + "\n", encoding="utf-8")
    return int(all(r.error for r in runs))


if __name__ == "__main__":
    sys.exit(main())
