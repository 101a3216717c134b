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
import torch.nn.functional as F
from torch import nn

import scaletorch
from scaletorch import parallel


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Characters in, the loss of the next character out."""

    def __init__(self, vocab: int, width: int, depth: int, heads: int,
                 context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def batches(args: argparse.Namespace) -> tuple[int, torch.Tensor]:
    """The vocabulary's size, and for every step a batch of excerpts."""
    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(text))
    index = {c: i for i, c in enumerate(alphabet)}
    data = torch.tensor([index[c] for c in text])
    shape = (args.steps, args.batch, 1)
    starts = torch.randint(len(data) - args.context - 1,
                           shape,
                           generator=torch.Generator().manual_seed(1))
    return len(alphabet), data[starts + torch.arange(args.context + 1)]


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    """The usual loop; it knows nothing of ranks."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in data:
        loss = model(batch[:, :-1], batch[:, 1:])
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
    single = GPT(vocab, args.width, args.depth, 4, args.context)
    if "RANK" not in os.environ:
        print(f"loss {train(single, data)[-1]:.4f}")
        return
    dist.init_process_group()
    say = print if dist.get_rank() == 0 else (lambda *a: None)
    model = scaletorch.auto_parallelize(
        copy.deepcopy(single),
        dist.get_world_size(),
        example_inputs=(data[0][:, :-1], data[0][:, 1:]),
        plan=getattr(parallel, args.recipe)() if args.recipe else None)
    say(model.plan.to_yaml())
    start = time.perf_counter()
    losses = train(model, data)
    seconds = time.perf_counter() - start
    for step in range(0, args.steps, 10):
        say(f"step {step:4}  loss {losses[step]:.4f}")
    say(f"step {args.steps - 1:4}  loss {losses[-1]:.4f}  "
        f"{data[:, :, 1:].numel() / seconds:,.0f} tokens/s on "
        f"{dist.get_world_size()} ranks")
    if dist.get_rank() == 0:
        alone = train(single, data[:20])
        worst = max(abs(a - b) for a, b in zip(alone, losses))
        say(f"largest difference from the single-process loss over "
            f"{len(alone)} steps: {worst:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
