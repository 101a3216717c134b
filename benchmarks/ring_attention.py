"""Time of a training step with the sequence sharded in several ways.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.ring_attention`` from the root.
Two gloo processes train the same small model under ``ring``, ``gather_kv``
and ``ulysses`` in turns; medians are compared, as ratios to ``ring``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scaletorch  # noqa: E402
from benchmarks.contenders import keep_memory  # noqa: E402
from examples.long_context import Model  # noqa: E402
from scaletorch import parallel  # noqa: E402

__all__ = ["main"]

_RANKS = 2
_RECIPES = ("ring", "gather_kv", "ulysses")
_TOLERANCE = 1e-4


def _model(recipe: str, context: int) -> scaletorch.ParallelModule:
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (_RANKS, ), mesh_dim_names=("cp", ))
    ids = torch.zeros(1, context, dtype=torch.long)
    return scaletorch.auto_parallelize(Model(32, 64, 2, context),
                                       mesh,
                                       example_inputs=(ids, ids),
                                       plan=getattr(parallel, recipe)(),
                                       cluster="cpu-gloo")


def _rank(rank: int, rounds: int, contexts: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", _RANKS)
    dist.init_process_group("gloo", rank=rank, world_size=_RANKS, store=store)
    for context in contexts:
        times_s = _times_s(rounds, context)
        base_s = statistics.median(times_s["ring"])
        for name in _RECIPES if rank == 0 else ():
            own_s = statistics.median(times_s[name])
            print(
                f"context {context:6} {name:10} {1e3 * own_s:8.1f} ms "
                f"ratio {own_s / base_s:.2f}",
                flush=True)
    dist.destroy_process_group()


def _times_s(rounds: int, context: int) -> dict[str, list[float]]:
    made = {name: _model(name, context) for name in _RECIPES}
    times_s: dict[str, list[float]] = {name: [] for name in _RECIPES}
    ids = torch.randint(32, (1, context + 1),
                        generator=torch.Generator().manual_seed(1))
    for number in range(1 + rounds):
        losses = []
        for name, model in made.items():
            dist.barrier()
            start = time.perf_counter()
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
            if number:
                times_s[name].append(time.perf_counter() - start)
            losses.append(loss.item())
        if max(losses) - min(losses) > _TOLERANCE:
            raise AssertionError(f"losses differ: {losses}")
    return times_s


def main() -> None:
    """Print one line per recipe and context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts",
                        type=int,
                        nargs="*",
                        default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank,
                 (arguments.rounds, arguments.contexts, str(Path(folder))),
                 nprocs=_RANKS)


if __name__ == "__main__":
    main()
