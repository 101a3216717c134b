"""Time of a training step: ScaleTorch against PyTorch's own wrappers.

Run ``OMP_NUM_THREADS=1 python benchmarks/step_time.py``. Two
gloo processes train the same transformer; the contenders take turns, and
medians are compared. A ratio below 1 says that ScaleTorch is quicker. The
ratio of processor times of the first rank leaves out waiting, and so what
else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import Step  # noqa: E402
from benchmarks.contenders import PAIRS, Sizes, keep_memory, single

__all__ = ["main"]

_RANKS = 2
_SIZES = {"tiny": Sizes(width=64, sequence=32), "small": Sizes(width=256)}
_TOLERANCE = 1e-3


def _timed_s(step: Step) -> tuple[float, float, float]:
    """Seconds of one step, from when all ranks are ready, those for which
    this rank computed, and the loss."""
    dist.barrier()
    start, start_cpu = time.perf_counter(), time.process_time()
    loss = step()
    return (time.perf_counter() - start, time.process_time() - start_cpu,
            float(loss))


def _compare(name: str, size: str, compile: bool, rounds: int,
             warm_up: int) -> dict[str, Any]:
    """Two contenders in turns; each of them sees the same steps."""
    axis = "tp" if name == "megatron" else "dp"
    mesh = init_device_mesh("cpu", (_RANKS, ), mesh_dim_names=(axis, ))
    start = time.perf_counter()
    made = [build(_SIZES[size], mesh, compile) for build in PAIRS[name]]
    setup_s = time.perf_counter() - start
    times_s: list[list[float]] = [[], []]
    cpu_s: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for number in range(warm_up + rounds):
        for which, step in enumerate(made):
            time_s, used_s, loss = _timed_s(step)
            losses[which].append(loss)
            if number >= warm_up:
                times_s[which].append(time_s)
                cpu_s[which].append(used_s)
    _check_equal(losses, name)
    ours_s, theirs_s = map(statistics.median, times_s)
    pairs = [a / b for a, b in zip(*times_s, strict=True)]
    return {
        "size": size,
        "recipe": name,
        "compile": compile,
        "ours_s": ours_s,
        "theirs_s": theirs_s,
        "ratio": ours_s / theirs_s,
        "paired_ratio": statistics.median(pairs),
        "cpu_ratio": statistics.median(cpu_s[0]) / statistics.median(cpu_s[1]),
        "setup_s": setup_s,
        "loss": losses[0][-1]
    }


def _check_equal(losses: Sequence[Sequence[float]], name: str) -> None:
    for number, (ours, theirs) in enumerate(zip(*losses, strict=True)):
        if abs(ours - theirs) > _TOLERANCE * abs(theirs):
            raise AssertionError(f"{name}: losses differ at step {number}: "
                                 f"{ours} and {theirs}")


def _rank(rank: int, arguments: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", _RANKS)
    dist.init_process_group("gloo", rank=rank, world_size=_RANKS, store=store)
    rows = []
    for size in arguments.sizes:
        if rank == 0:
            rows.append(_single(size, arguments.rounds))
            _print(rows[-1], arguments.json)
        for compile in arguments.compile:
            for name in arguments.recipes:
                # What earlier pairs compiled must not weigh on this one.
                torch.compiler.reset()
                rows.append(
                    _compare(name, size, bool(compile), arguments.rounds,
                             arguments.warm_up))
                if rank == 0:
                    _print(rows[-1], arguments.json)
    if rank == 0 and arguments.json:
        print(json.dumps(rows, indent=1))
    dist.destroy_process_group()


def _single(size: str, rounds: int) -> dict[str, Any]:
    step = single(_SIZES[size])
    times_s = []
    for _ in range(rounds):
        start = time.perf_counter()
        loss = step()
        times_s.append(time.perf_counter() - start)
    return {
        "size": size,
        "recipe": "one process",
        "compile": False,
        "ours_s": None,
        "theirs_s": statistics.median(times_s),
        "ratio": None,
        "paired_ratio": None,
        "cpu_ratio": None,
        "setup_s": None,
        "loss": float(loss)
    }


def _print(row: dict[str, Any], quiet: bool) -> None:
    if quiet:
        return
    mode = "compiled" if row["compile"] else "eager"
    line = f"{row['size']:6} {row['recipe']:12} {mode:9}"
    if row["ours_s"] is not None:
        line += f"ours {1e3 * row['ours_s']:7.1f} ms "
    line += f"torch {1e3 * row['theirs_s']:7.1f} ms "
    if row["ratio"] is not None:
        line += (f"ratio {row['ratio']:.2f} (paired "
                 f"{row['paired_ratio']:.2f}, processor "
                 f"{row['cpu_ratio']:.2f})")
    print(line, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes",
                        nargs="*",
                        choices=list(_SIZES),
                        default=list(_SIZES))
    parser.add_argument("--recipes",
                        nargs="*",
                        choices=list(PAIRS),
                        default=list(PAIRS))
    parser.add_argument("--compile",
                        nargs="*",
                        type=int,
                        choices=(0, 1),
                        default=[0, 1],
                        help="0 eager, 1 compiled")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print one line per comparison."""
    keep_memory()
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (arguments, str(Path(folder))), nprocs=_RANKS)


if __name__ == "__main__":
    main()
