"""Train a character-level GPT, planned automatically, on any mesh.

Run it on one process or on several; the loss curve is the same::

    python examples/train_gpt.py
    torchrun --standalone --nproc-per-node 4 examples/train_gpt.py

The text is CPython's own language reference, which ships with it. The
plan is printed, then loss and speed, then the largest difference from the
single-process run.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch import nn

import scaletorch
from scaletorch import models, parallel


def batches(args: argparse.Namespace) -> tuple[int, torch.Tensor]:
    """The vocabulary's size, and for every step a batch of excerpts."""
    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(text))
    index = {c: i for i, c in enumerate(alphabet)}
    data = torch.tensor([index[c] for c in text])
    shape = (args.steps, args.batch, 1)
    starts = torch.randint(len(data) - args.context,
                           shape,
                           generator=torch.Generator().manual_seed(1))
    return len(alphabet), data[starts + torch.arange(args.context)]


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    """The usual loop; it knows nothing of ranks."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--recipe",
                        choices=["ddp", "fsdp", "zero1", "megatron"],
                        help="instead of the planner's choice")
    args = parser.parse_args()
    vocab, data = batches(args)
    torch.manual_seed(0)
    single = models.GPT2(
        models.GPT2Config(vocabulary_size=vocab,
                          width=args.width,
                          depth=args.depth,
                          heads=4,
                          context=args.context))
    if "RANK" not in os.environ:
        print(f"loss {train(single, data)[-1]:.4f}")
        return
    dist.init_process_group()
    say = print if dist.get_rank() == 0 else (lambda *a: None)
    model = scaletorch.auto_parallelize(
        copy.deepcopy(single),
        dist.get_world_size(),
        example_inputs={
            "tokens": data[0],
            "labels": data[0]
        },
        plan=getattr(parallel, args.recipe)() if args.recipe else None)
    say(model.plan.to_yaml())
    start = time.perf_counter()
    losses = train(model, data)
    seconds = time.perf_counter() - start
    for step in range(0, args.steps, 10):
        say(f"step {step:4}  loss {losses[step]:.4f}")
    say(f"step {args.steps - 1:4}  loss {losses[-1]:.4f}  "
        f"{data.numel() / seconds:,.0f} tokens/s on "
        f"{dist.get_world_size()} ranks")
    if dist.get_rank() == 0:
        alone = train(single, data[:20])
        worst = max(abs(a - b) for a, b in zip(alone, losses))
        say(f"largest difference from the single-process loss over "
            f"{len(alone)} steps: {worst:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
