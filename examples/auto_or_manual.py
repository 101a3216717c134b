"""The planner's choice against every recipe that fits, on real ranks.

For a small GPT each plan trains some steps; printed are the step that the
planner expects of each, the one measured, and the memory expected, best
first::

    torchrun --standalone --nproc-per-node 2 examples/auto_or_manual.py

With ``--cluster local`` the machine is measured first, so that what is
expected is of this machine; that takes some minutes, once.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import nn

import scaletorch
from scaletorch import dist, models, parallel

RECIPES = {
    "ddp": parallel.ddp(),
    "fsdp": parallel.fsdp(),
    "zero1": parallel.zero1(),
    "megatron": parallel.megatron(),
    "megatron, sequences": parallel.megatron(sequence_parallel=True),
    "pipeline": parallel.pipeline("1f1b", microbatches=4),
}


def measured_s(model: nn.Module, batch: torch.Tensor, steps: int) -> float:
    """The median step, the first of all left out."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model(tokens=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cluster", default="cpu-gloo")
    args = parser.parse_args()
    process = dist.init("cpu")
    torch.manual_seed(0)
    single = models.GPT2(
        models.GPT2Config(vocabulary_size=256,
                          width=args.width,
                          depth=args.depth,
                          heads=4,
                          context=64))
    batch = torch.randint(256, (args.batch, 64))
    example = {"tokens": batch, "labels": batch}
    rows = []
    for name, recipe in {"auto": None, **RECIPES}.items():
        model = scaletorch.auto_parallelize(copy.deepcopy(single),
                                            process.world_size,
                                            example_inputs=example,
                                            cluster=args.cluster,
                                            plan=recipe)
        expected = model.plan.prediction
        rows.append((measured_s(model, batch,
                                args.steps), expected["step_time_s"],
                     expected["memory_bytes"], name, str(model.plan.mesh)))
    if process.is_main:
        print("plan                 mesh          expected   measured  memory")
        for found_s, expected_s, memory, name, mesh in sorted(rows):
            print(f"{name:20} {mesh:12} {1e3 * expected_s:7.1f} ms "
                  f"{1e3 * found_s:7.1f} ms {memory / 2**20:6.1f} MiB")
    dist.shutdown()


if __name__ == "__main__":
    main()
