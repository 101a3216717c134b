"""Does another network change which plan is best, and is that foreseen?

Run ``python benchmarks/shaped_links.py`` as root. For each link it makes
simulated hosts (``scripts/netns_cluster.sh``), profiles them as a job, and
runs one model under several plans there (``benchmarks/cost_accuracy.py``).
It prints predicted and measured times, and for each link the plan that is
predicted to be the best and the one that is. Runs of a few seconds: links
are slow enough to outweigh what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path.insert(0, str(_ROOT))

from benchmarks.predictions import Row, within  # noqa: E402

__all__ = ["Shaped", "format_links", "main"]

_SCRIPT = _ROOT / "scripts" / "netns_cluster.sh"
_LINKS = ("2gbit:0", "1gbit:20ms", "50mbit:1ms")
"""A good one, one that is far, and one that is narrow."""
_PLANS = ("ddp", "fsdp", "megatron", "pipeline")
_NEAR = 0.1
"""Of the best plan: a shared machine is not steadier than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What was found on one link."""

    link: str
    rows: tuple[Row, ...]

    @property
    def predicted_best(self) -> Row:
        """The plan that the cost model would choose."""
        return min(self.rows, key=lambda r: r.predicted_s)

    @property
    def measured_best(self) -> Row:
        """The plan that was the quickest."""
        return min(self.rows, key=lambda r: r.measured_s)


def format_links(found: Sequence[Shaped]) -> str:
    """Times by link and plan, and what was best."""
    lines = []
    for one in found:
        lines.append(f"{one.link}: rate and delay of each host's link")
        for row in sorted(one.rows, key=lambda r: r.predicted_s):
            lines.append(f"  {row.plan:20s} predicted "
                         f"{1e3 * row.predicted_s:8.1f} ms   measured "
                         f"{1e3 * row.measured_s:8.1f} ms")
        lines.append(f"  predicted best: {one.predicted_best.plan}, "
                     f"measured best: {one.measured_best.plan}")
    right = sum(all(within(one.rows, near=_NEAR).values()) for one in found)
    chosen = {one.predicted_best.plan for one in found}
    lines.append(f"the predicted best is within {100 * _NEAR:.0f}% of the "
                 f"measured best on {right} of {len(found)} links; "
                 f"{len(chosen)} different plans are predicted best")
    return "\n".join(lines) + "\n"


def _on_hosts(*words: str) -> str:
    done = subprocess.run([str(_SCRIPT), *words],
                          cwd=_ROOT,
                          stdout=subprocess.PIPE,
                          text=True,
                          check=True)
    return done.stdout


def _shaped(link: str, arguments: argparse.Namespace, folder: str) -> Shaped:
    rate, _, delay = link.partition(":")
    _on_hosts("create", str(arguments.hosts), rate, delay)
    try:
        text = _on_hosts("run", str(arguments.ranks), "env",
                         "OMP_NUM_THREADS=1", sys.executable,
                         "benchmarks/cost_accuracy.py", "--json", "--cache",
                         folder, "--refresh", "--models", arguments.model,
                         "--rounds", str(arguments.rounds), "--budget-s",
                         str(arguments.budget_s), "--plans", *arguments.plans)
    finally:
        _on_hosts("destroy")
    rows = json.loads(text[text.index("["):])
    return Shaped(link=link, rows=tuple(Row(**r) for r in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--links",
        nargs="+",
        default=list(_LINKS),
        metavar="RATE:DELAY",
        help="as scripts/netns_cluster.sh takes them (default: %(default)s)")
    add("--hosts", type=int, default=2)
    add("--ranks", type=int, default=1, help="on each host (default: 1)")
    add("--model", default="long", help="of cost_accuracy.py")
    add("--plans", nargs="+", default=list(_PLANS), metavar="NAME")
    add("--rounds", type=int, default=3)
    add("--budget-s", type=float, default=30.0, help="of each profile")
    arguments = parser.parse_args(argv)
    found = []
    for link in arguments.links:
        with tempfile.TemporaryDirectory() as folder:
            found.append(_shaped(link, arguments, folder))
    sys.stdout.write(format_links(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
