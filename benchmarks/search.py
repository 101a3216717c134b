"""How long the exact solvers take on chain-like factor graphs.

Run ``OMP_NUM_THREADS=1 python benchmarks/search.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.search.solve import solve  # noqa: E402
from tests.test_planner.test_search.graphs import chain  # noqa: E402

__all__ = ["main"]

_GRAPHS = ((300, 12, 3), (1000, 12, 3), (2000, 12, 3), (300, 24, 3), (60, 36,
                                                                      3))


def _best_s(count: int, states: int, width: int, repeats: int) -> float:
    graph = chain(count, states, width)
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        assert solve(graph).is_optimal
        times_s.append(time.perf_counter() - start)
    return min(times_s)


def main() -> None:
    """Print one line per graph: its size and the best of a few runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print("variables  states  width  best_s")
    for count, states, width in _GRAPHS:
        best_s = _best_s(count, states, width, repeats)
        print(f"{count:9}  {states:6}  {width:5}  {best_s:6.3f}")


if __name__ == "__main__":
    main()
