"""Train a small GPT as a pipeline, under any schedule.

Run it on a process for each rank; the losses are those of one process::

    torchrun --standalone --nproc-per-node 2 examples/pipeline.py
    torchrun --standalone --nproc-per-node 2 examples/pipeline.py \\
        --schedule interleaved1f1b --chunks 2
    torchrun --standalone --nproc-per-node 4 examples/pipeline.py --replicas 2

Printed are the schedule, the part of the time for which ranks are predicted
to wait (the bubble), and the loss of every step beside that of one process.
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.schedule.named import make_schedule
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes
from scaletorch import models, parallel

_VOCABULARY = 64


def batches(args: argparse.Namespace) -> torch.Tensor:
    """For every step a batch of counting with a random stride."""
    draw = torch.Generator().manual_seed(1)
    shape = (args.steps, args.batch, 1)
    start = torch.randint(_VOCABULARY, shape, generator=draw)
    stride = torch.randint(1, 4, shape, generator=draw)
    return (start + stride * torch.arange(args.context)) % _VOCABULARY


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    """The usual loop; it knows nothing of stages."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in data:
        loss = model(tokens=batch, labels=batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedule",
                        default="1f1b",
                        help="a name, auto, or the path of a schedule's text")
    parser.add_argument("--chunks",
                        type=int,
                        default=1,
                        help="stages of each rank")
    parser.add_argument("--replicas",
                        type=int,
                        default=1,
                        help="data-parallel ranks of each stage")
    parser.add_argument("--microbatches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    dist.init_process_group("gloo")
    ranks = dist.get_world_size() // args.replicas
    data = batches(args)
    torch.manual_seed(0)
    single = models.GPT2(
        models.GPT2Config(vocabulary_size=_VOCABULARY,
                          width=args.width,
                          depth=args.depth,
                          heads=4,
                          context=args.context))
    example = {"tokens": data[0], "labels": data[0]}
    model = scaletorch.auto_parallelize(
        copy.deepcopy(single),
        init_device_mesh("cpu", (ranks, args.replicas),
                         mesh_dim_names=("pp", "dp")),
        example_inputs=example,
        cluster="cpu-gloo",
        plan=parallel.pipeline(schedule=args.schedule,
                               microbatches=args.microbatches,
                               chunks=args.chunks) * parallel.fsdp())
    losses = train(model, data)
    if dist.get_rank() == 0:
        assert model.plan.pipeline is not None
        schedule = make_schedule(model.plan.pipeline.schedule,
                                 ranks=ranks,
                                 microbatches=args.microbatches,
                                 chunks=args.chunks)
        bubble = simulate(schedule, StageTimes.uniform(schedule.stages))
        print(schedule)
        print(f"bubble of equal stages: {100 * bubble.bubble_fraction:.1f} %")
        alone = train(single, data)
        for step, (ours, expected) in enumerate(zip(losses, alone)):
            print(f"step {step:4}  loss {ours:.4f}  alone {expected:.4f}")
        worst = max(abs(a - b) for a, b in zip(losses, alone))
        print(f"largest difference from one process: {worst:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
