"""Train a small causal model on long sequences with ring attention.

Every rank holds a share of each sequence, the loss is that of one process::

    torchrun --standalone --nproc-per-node 2 examples/long_context.py
"""

from __future__ import annotations

import argparse
import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from scaletorch import parallel


class Layer(nn.Module):
    """Pre-norm causal attention with shared key heads, and a gated MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width // 2, bias=False)
        self.value = nn.Linear(width, width // 2, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (-1, self.size)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True)  # yapf: disable
        x = x + self.project(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    """Tokens in, the loss of the next token out."""

    def __init__(self, vocab: int, width: int, depth: int, context: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.places = nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(depth))
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.places(places)
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in data:
        loss = model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    dist.init_process_group()
    say = print if dist.get_rank() == 0 else (lambda *a: None)
    torch.manual_seed(0)
    single = Model(32, 64, 2, args.context)
    data = torch.randint(32, (args.steps, 1, args.context + 1))
    for at in range(7, args.context + 1):
        data[..., at] = (3 * data[..., at - 1] + data[..., at - 7]) % 32
    example = (data[0][:, :-1], data[0][:, 1:])
    for ranks in (2**n for n in range(4)):
        found = Planning(capture(single, example),
                         load_cluster("cpu-gloo").resized(ranks))
        chosen = found.from_recipe(parallel.ring(),
                                   MeshSpec(("cp", ), (ranks, )))
        say(f"cp={ranks}: {chosen.memory.saved / 2**20:.2f} MiB of "
            "activations kept on each rank")
    mesh = init_device_mesh("cpu", (dist.get_world_size(), ),
                            mesh_dim_names=("cp", ))
    model = scaletorch.auto_parallelize(copy.deepcopy(single),
                                        mesh,
                                        example_inputs=example,
                                        plan=parallel.ring(),
                                        cluster="cpu-gloo")
    losses = train(model, data)
    if dist.get_rank() == 0:
        alone = train(single, data)
        worst = max(abs(a - b) for a, b in zip(alone, losses))
        say(f"loss {losses[-1]:.4f}, from one process by {worst:.1e}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
