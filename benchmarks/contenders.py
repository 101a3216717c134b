"""One model, trained by ScaleTorch and by PyTorch's own wrappers.

A contender is a closure that runs one training step on the whole batch
and gives the loss over it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (ColwiseParallel,
                                               RowwiseParallel, loss_parallel,
                                               parallelize_module)
from torch.nn.parallel import DistributedDataParallel

from scaletorch import auto_parallelize, parallel

__all__ = [
    "PAIRS", "Contender", "Sizes", "Step", "build", "fused_adamw",
    "keep_memory", "single", "timed_s", "training_step"
]

Step = Callable[[], torch.Tensor]
_STEPS = 3
"""In a row, each time that a contender has its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the model and its batch are."""

    width: int
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1000
    batch: int = 8
    sequence: int = 128


class Block(nn.Module):
    """Pre-norm causal attention and a GELU MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.head_size = width // sizes.heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
                   for p in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A causal language model that returns its loss."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.sequence, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(place)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


Batch = tuple[torch.Tensor, torch.Tensor]
Contender = Callable[[Sizes, DeviceMesh, bool], Step]


def build(sizes: Sizes) -> tuple[nn.Module, Batch]:
    """The same model and batch on every rank and for every contender."""
    torch.manual_seed(0)
    shape = (sizes.batch, sizes.sequence)
    model = Transformer(sizes)
    return model, (torch.randint(sizes.vocabulary,
                                 shape), torch.randint(sizes.vocabulary,
                                                       shape))


def fused_adamw(module: nn.Module) -> torch.optim.Optimizer:
    """AdamW in one call for each kind of tensor.

    Not fused, it goes through the dispatch of DTensor a dozen times for
    each parameter, which hides what is compared here.
    """
    kinds: dict[type, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        kinds.setdefault(type(parameter.data), []).append(parameter)
    return torch.optim.AdamW([{
        "params": p
    } for p in kinds.values()],
                             lr=1e-3,
                             fused=True)


def training_step(module: nn.Module,
                  batch: Batch,
                  optimizer: torch.optim.Optimizer | None = None) -> Step:
    """Forward, backward and a step of the optimizer, a fused AdamW."""
    optimizer = optimizer or fused_adamw(module)

    def step() -> torch.Tensor:
        loss = module(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def keep_memory() -> None:
    """Let processes that start from now on keep what memory they free.

    glibc hands large pieces back, and they are given and cleared again page
    by page in the next step. That takes a tenth of the steps of a small
    model, of some plans more than of others as chance has it. Where the
    variables are set already they stay.
    """
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.setdefault(name, str(1 << 32))


def timed_s(step: Step) -> float:
    """Seconds of one of a few steps in a row, until all ranks have done them.

    As in a loop, no rank waits for the others between steps.
    """
    dist.barrier()
    start = time.perf_counter()
    for _ in range(_STEPS):
        step()
    dist.barrier()
    return (time.perf_counter() - start) / _STEPS


def single(sizes: Sizes) -> Step:
    """One process, no parallelism, the whole batch."""
    model, batch = build(sizes)
    return training_step(model, batch)


def ours(recipe: Callable[[], parallel.Recipe]) -> Contender:
    """ScaleTorch with a recipe."""

    def contender(sizes: Sizes, mesh: DeviceMesh, compile: bool) -> Step:
        model, batch = build(sizes)
        module = auto_parallelize(model,
                                  mesh,
                                  example_inputs=batch,
                                  plan=recipe(),
                                  compile=compile)
        return training_step(module, batch)

    return contender


def _shard(batch: Batch, mesh: DeviceMesh) -> Batch:
    ids, labels = (x.chunk(mesh.size())[mesh.get_local_rank()] for x in batch)
    return ids, labels


def _mean(step: Step) -> Step:
    """The mean loss over ranks, which ScaleTorch returns as well."""

    def averaged() -> torch.Tensor:
        loss = step()
        dist.all_reduce(loss)
        return loss / dist.get_world_size()

    return averaged


def torch_ddp(sizes: Sizes, mesh: DeviceMesh, compile: bool) -> Step:
    """DistributedDataParallel."""
    model, batch = build(sizes)
    module: nn.Module = DistributedDataParallel(model,
                                                gradient_as_bucket_view=True,
                                                device_mesh=mesh)
    if compile:
        module = torch.compile(module)
    return _mean(training_step(module, _shard(batch, mesh)))


def torch_fsdp(sizes: Sizes, mesh: DeviceMesh, compile: bool) -> Step:
    """fully_shard on every block and on the root."""
    model, batch = build(sizes)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
        if compile:
            block.compile()
    fully_shard(model, mesh=mesh)
    return _mean(training_step(model, _shard(batch, mesh)))


def torch_megatron(sizes: Sizes, mesh: DeviceMesh, compile: bool) -> Step:
    """parallelize_module: columns, rows, and a vocabulary-parallel loss."""
    model, batch = build(sizes)
    columns, rows = ColwiseParallel(), RowwiseParallel()
    layer = {
        "query": columns,
        "key": columns,
        "value": columns,
        "out": rows,
        "up": columns,
        "down": rows
    }
    plan = {
        f"blocks.{i}.{name}": style
        for i in range(sizes.layers)
        for name, style in layer.items()
    }
    parallelize_module(
        model, mesh, {
            **plan, "tokens": RowwiseParallel(input_layouts=Replicate()),
            "head": ColwiseParallel(use_local_output=False)
        })
    if compile:
        for block in model.blocks:
            block.compile()
    step = training_step(model, batch)

    def parallel_loss() -> torch.Tensor:
        with loss_parallel():
            loss = step()
        return loss.full_tensor()

    return parallel_loss


PAIRS: dict[str, tuple[Contender, Contender]] = {
    "ddp": (ours(parallel.ddp), torch_ddp),
    "fsdp": (ours(parallel.fsdp), torch_fsdp),
    "megatron": (ours(parallel.megatron), torch_megatron),
}
