"""Train a small Llama under any recipe, on any mesh.

The recipes are combined as in Python, and the losses are those of one
process whichever is taken::

    torchrun --standalone --nproc-per-node 2 examples/by_recipe.py ddp
    torchrun --standalone --nproc-per-node 2 examples/by_recipe.py fsdp
    torchrun --standalone --nproc-per-node 4 examples/by_recipe.py \\
        "fsdp * megatron(sequence_parallel=True)" --mesh dp=2,tp=2
    torchrun --standalone --nproc-per-node 2 examples/by_recipe.py ulysses

Printed is every loss beside that of one process, and with ``--draw`` the
program that the first rank runs for one layer, collectives and all.
"""

from __future__ import annotations

import argparse
import copy
import math

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import dist, models
from scaletorch.parallel.picture import after
from scaletorch.trainer import parse_recipe


def sizes(text: str, recipe_axes: list[str], ranks: int) -> dict[str, int]:
    """``dp=2,tp=2`` as a mapping; one axis takes all ranks by itself."""
    if not text:
        text = f"{recipe_axes[0]}={ranks}"
    found = {
        n: int(s)
        for n, _, s in (p.partition("=") for p in text.split(","))
    }
    if math.prod(found.values()) != ranks:
        raise SystemExit(f"--mesh {text} does not make up {ranks} ranks")
    return found


def train(model: nn.Module, data: torch.Tensor) -> list[float]:
    """The usual loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in data:
        loss = model(tokens=batch, labels=batch).loss
        loss.backward()
        scaletorch.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help='such as "fsdp * megatron"')
    parser.add_argument("--mesh", default="", help="such as dp=2,tp=2")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    process = dist.init("cpu")
    ranks = process.world_size
    recipe = parse_recipe(args.recipe)
    mesh = sizes(args.mesh, [axis for axis, _ in recipe.parts], ranks)
    torch.manual_seed(0)
    single = models.build("llama3-8b",
                          width=64,
                          depth=2,
                          heads=4,
                          kv_heads=4,
                          hidden_width=128,
                          vocabulary_size=64)
    start = torch.randint(64, (args.steps, 4, 1))
    data = (start + 3 * torch.arange(16)) % 64
    example = {"tokens": data[0], "labels": data[0]}
    model = scaletorch.auto_parallelize(copy.deepcopy(single),
                                        init_device_mesh(
                                            "cpu",
                                            tuple(mesh.values()),
                                            mesh_dim_names=tuple(mesh)),
                                        example_inputs=example,
                                        cluster="cpu-gloo",
                                        plan=recipe)
    losses = train(model, data)
    if process.is_main:
        if args.draw:
            print(after(single, example, recipe, mesh, block="LlamaLayer"))
        alone = train(single, data)
        for step, (ours, expected) in enumerate(zip(losses, alone)):
            print(f"step {step:4}  loss {ours:.4f}  alone {expected:.4f}")
        worst = max(abs(a - b) for a, b in zip(losses, alone))
        print(f"largest difference from one process: {worst:.1e}")
    dist.shutdown()


if __name__ == "__main__":
    main()
