"""Time of a pipelined step: ScaleTorch against torch.distributed.pipelining.

Run ``OMP_NUM_THREADS=1 python benchmarks/pipeline.py`` from the root. Gloo
processes train the same transformer, cut at the same blocks, under the same
schedules; the contenders take turns, and medians are compared. A ratio
below 1 says that ScaleTorch is quicker.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import (PipelineStage, Schedule1F1B,
                                          ScheduleInterleaved1F1B,
                                          ScheduleInterleavedZeroBubble)

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import build  # noqa
from benchmarks.contenders import (Block, Sizes, Transformer, keep_memory,
                                   training_step)
from scaletorch import auto_parallelize, parallel  # noqa: E402

__all__ = ["main"]

_SIZES = {
    "tiny": Sizes(width=64, sequence=32, layers=8, batch=16),
    "small": Sizes(width=256, sequence=64, layers=8, batch=16)
}
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A schedule as both sides call it."""

    name: str
    chunks: int
    theirs: Callable[..., Any]


PAIRS = {
    "1f1b":
    Pair(name="1f1b",
         chunks=1,
         theirs=lambda stages, *a, **k: Schedule1F1B(stages[0], *a, **k)),
    "interleaved":
    Pair(name="interleaved1f1b", chunks=2, theirs=ScheduleInterleaved1F1B),
    "zero-bubble":
    Pair(name="zbh1", chunks=2, theirs=ScheduleInterleavedZeroBubble),
}

Step = Callable[[], torch.Tensor | None]


class _Stage(nn.Module):
    """Some of the transformer's blocks, and what is at its ends."""

    def __init__(self, whole: Transformer, blocks: Sequence[Block], *,
                 is_first: bool, is_last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tokens = whole.tokens if is_first else None
        self.positions = whole.positions if is_first else None
        self.norm = whole.norm if is_last else None
        self.head = whole.head if is_last else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.tokens is not None and self.positions is not None:
            place = torch.arange(x.shape[1], device=x.device)
            x = self.tokens(x) + self.positions(place)
        for block in self.blocks:
            x = block(x)
        if self.norm is not None and self.head is not None:
            x = self.head(self.norm(x))
        return x


def _optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def _firsts(sizes: Sizes, stages: int) -> list[int]:
    """The first layer of each stage."""
    return [s * sizes.layers // stages for s in range(stages)]


def ours(pair: Pair, sizes: Sizes, microbatches: int) -> Step:
    """ScaleTorch."""
    ranks = dist.get_world_size()
    model, batch = build(sizes)
    firsts = _firsts(sizes, ranks * pair.chunks)
    mesh = init_device_mesh("cpu", (ranks, ), mesh_dim_names=("pp", ))
    module = auto_parallelize(model,
                              mesh,
                              example_inputs=batch,
                              cluster="cpu-gloo",
                              plan=parallel.pipeline(
                                  schedule=pair.name,
                                  microbatches=microbatches,
                                  chunks=pair.chunks,
                                  cuts=[f"blocks.{f}" for f in firsts[1:]]))
    return training_step(module, batch, _optimizer(list(module.parameters())))


def theirs(pair: Pair, sizes: Sizes, microbatches: int) -> Step:
    """torch.distributed.pipelining; the loss is the last rank's only."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    model, (ids, labels) = build(sizes)
    assert isinstance(model, Transformer)
    stages = ranks * pair.chunks
    edges = [*_firsts(sizes, stages), sizes.layers]
    blocks = list(model.blocks)
    parts = {
        s:
        _Stage(model,
               blocks[edges[s]:edges[s + 1]],
               is_first=s == 0,
               is_last=s == stages - 1)
        for s in range(rank, stages, ranks)
    }
    schedule = pair.theirs(
        [
            PipelineStage(part, s, stages, torch.device("cpu"))
            for s, part in parts.items()
        ],
        microbatches,
        loss_fn=lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()))
    optimizer = _optimizer([p for m in parts.values() for p in m.parameters()])

    def step() -> torch.Tensor | None:
        losses: list[torch.Tensor] = []
        last = rank == ranks - 1
        schedule.step(*((ids, ) if rank == 0 else ()),
                      target=labels if last else None,
                      losses=losses if last else None)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).mean().detach() if last else None

    return step


def _timed_s(step: Step) -> tuple[float, torch.Tensor | None]:
    """Seconds until all ranks have done a step, and its loss."""
    dist.barrier()
    start = time.perf_counter()
    loss = step()
    dist.barrier()
    return time.perf_counter() - start, loss


def _compare(name: str, size: str,
             arguments: argparse.Namespace) -> dict[str, Any]:
    """Two contenders in turns; each of them sees the same steps."""
    made, setup_s = [], []
    for contender in (ours, theirs):
        start = time.perf_counter()
        made.append(
            contender(PAIRS[name], _SIZES[size], arguments.microbatches))
        setup_s.append(time.perf_counter() - start)
    times_s: list[list[float]] = [[], []]
    for number in range(arguments.warm_up + arguments.rounds):
        losses = []
        for which, step in enumerate(made):
            time_s, loss = _timed_s(step)
            losses.append(loss)
            if number >= arguments.warm_up:
                times_s[which].append(time_s)
        _check_equal(losses, number)
    ours_s, theirs_s = map(statistics.median, times_s)
    return {
        "ranks": dist.get_world_size(),
        "size": size,
        "schedule": name,
        "ours_s": ours_s,
        "theirs_s": theirs_s,
        "ratio": ours_s / theirs_s,
        "setup_s": setup_s[0],
        "their_setup_s": setup_s[1]
    }


def _check_equal(losses: Sequence[torch.Tensor | None], number: int) -> None:
    if any(loss is None for loss in losses):
        return
    found, expected = map(float, losses)  # type: ignore[arg-type]
    if abs(found - expected) > _TOLERANCE * abs(expected):
        raise AssertionError(f"losses differ at step {number}: {found} and "
                             f"{expected}")


def _rank(rank: int, ranks: int, arguments: argparse.Namespace,
          folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/{ranks}", ranks)
    dist.init_process_group("gloo",
                            rank=rank,
                            world_size=ranks,
                            store=store,
                            timeout=datetime.timedelta(seconds=120))
    for size in arguments.sizes:
        for name in arguments.schedules:
            row = _compare(name, size, arguments)
            if rank == 0:
                print(json.dumps(row) if arguments.json else _line(row),
                      flush=True)
    dist.destroy_process_group()


def _line(row: dict[str, Any]) -> str:
    return (f"{row['ranks']} ranks  {row['size']:6} {row['schedule']:12} "
            f"ours {1e3 * row['ours_s']:7.1f} ms  "
            f"torch {1e3 * row['theirs_s']:7.1f} ms  "
            f"ratio {row['ratio']:.2f}  start-up {row['setup_s']:.1f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--sizes",
                        nargs="*",
                        choices=list(_SIZES),
                        default=list(_SIZES))
    parser.add_argument("--schedules",
                        nargs="*",
                        choices=list(PAIRS),
                        default=list(PAIRS))
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print one line per comparison."""
    keep_memory()
    arguments = _arguments()
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_rank, (ranks, arguments, str(Path(folder))),
                     nprocs=ranks)


if __name__ == "__main__":
    main()
