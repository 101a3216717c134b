"""Train a small mixture of experts, its experts spread over the ranks.

Run it on as many processes as divide the experts::

    torchrun --standalone --nproc-per-node 2 examples/moe.py

Every rank holds a share of the experts; tokens go to theirs and back, and
none is dropped. The text is CPython's own language reference. Loss and the
load of the experts are printed, then the largest difference from the
single-process run.
"""

from __future__ import annotations

import argparse
import copy
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import parallel
from scaletorch.models import Moe, MoeConfig, RouterConfig


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--compare",
                        type=int,
                        default=10,
                        help="steps that are run on one process as well")
    return parser.parse_args()


def batches(args: argparse.Namespace) -> tuple[int, torch.Tensor]:
    """The vocabulary's size, and for every step a batch of excerpts."""
    text = "\n".join(topics[name] for name in sorted(topics))
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    data = torch.tensor([index[c] for c in text])
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(len(data) - args.context,
                           (args.steps, args.batch, 1),
                           generator=generator)
    return len(index), data[starts + torch.arange(args.context)]


def built(args: argparse.Namespace, vocabulary_size: int) -> Moe:
    torch.manual_seed(0)
    return Moe(
        MoeConfig(vocabulary_size=vocabulary_size,
                  width=64,
                  depth=2,
                  heads=4,
                  kv_heads=2,
                  head_dim=16,
                  hidden_width=64,
                  context=args.context,
                  router=RouterConfig(experts=args.experts,
                                      active=2,
                                      z_weight=0.001),
                  shared=1))


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for tokens in data:
        loss = model(tokens=tokens, labels=tokens).loss
        loss.backward()
        scaletorch.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    dist.init_process_group()
    ranks, first = dist.get_world_size(), dist.get_rank() == 0
    vocabulary_size, data = batches(args)
    single = built(args, vocabulary_size)
    mesh = init_device_mesh("cpu", (ranks, ), mesh_dim_names=("ep", ))
    model = scaletorch.auto_parallelize(copy.deepcopy(single),
                                        mesh,
                                        example_inputs={
                                            "tokens": data[0],
                                            "labels": data[0]
                                        },
                                        plan=parallel.expert(),
                                        cluster="cpu-gloo")
    losses = train(model, data)
    loads = scaletorch.expert_load(model)
    if first:
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} on {ranks} ranks")
        for load in loads:
            print(f"{load.block}: tokens {load.tokens.tolist()}, the busiest "
                  f"rank has {load.imbalance(ranks):.2f} of the mean")
        alone = train(single, data[:args.compare])
        worst = max(abs(a - b) for a, b in zip(alone, losses))
        print(f"largest difference from the single-process loss: {worst:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
