"""Small models in double, and one body run alone and on a mesh."""

from __future__ import annotations

import copy
import math
import threading
import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import scaletorch
from scaletorch.runtime.ranks import run_ranks

__all__ = [
    "Mlp", "Normed", "TiedLM", "batch", "check_same", "images", "ids",
    "on_ranks", "spread", "whole"
]

Body = Callable[[nn.Module], dict[str, Any]]


class Mlp(nn.Module):
    """Two products and a norm; returns predictions and a loss."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(16, 4)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.dropout(F.gelu(self.norm(self.up(x)))))

    def forward(self, x: torch.Tensor,
                y: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.predict(x)
        return {"loss": F.mse_loss(found, y), "found": found}


class Normed(nn.Module):
    """Batch norm over a sharded batch, and a buffer of its own."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += x.shape[0]
        hidden = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return F.mse_loss(self.head(hidden), y)


class TiedLM(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 24, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


def batch(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """For :class:`Mlp`, always the same."""
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, 8, dtype=torch.float64, generator=generator),
            torch.randn(rows, 4, dtype=torch.float64, generator=generator))


def images(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """For :class:`Normed`."""
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows,
                        3,
                        4,
                        4,
                        dtype=torch.float64,
                        generator=generator),
            torch.randn(rows, 2, dtype=torch.float64, generator=generator))


def ids(rows: int = 4, columns: int = 6) -> torch.Tensor:
    """For :class:`TiedLM`."""
    return torch.arange(rows * columns).view(rows, columns) * 7 % 24


_BUILDING = threading.Lock()


def seeded(model: Callable[[], nn.Module]) -> nn.Module:
    """A model in double, always the same.

    Ranks that are threads share torch's generator and take turns.
    """
    with _BUILDING:
        torch.manual_seed(0)
        return model().double()


def spread(model: nn.Module, inputs: Any, axes: dict[str, int], plan: Any,
           **options: Any) -> scaletorch.ParallelModule:
    """``auto_parallelize`` on a mesh of simulated ranks."""
    mesh = init_device_mesh("cpu",
                            tuple(axes.values()),
                            mesh_dim_names=tuple(axes))
    return scaletorch.auto_parallelize(model,
                                       mesh,
                                       example_inputs=inputs,
                                       plan=plan,
                                       cluster="cpu-gloo",
                                       **options)


def on_ranks(model: nn.Module, inputs: Any, body: Body, axes: dict[str, int],
             plan: Any, **options: Any) -> list[dict[str, Any]]:
    """What a body finds on every rank of a mesh."""

    def work(rank: int) -> dict[str, Any]:
        del rank
        return body(spread(model, inputs, axes, plan, **options))

    return run_ranks(math.prod(axes.values()), work)


def whole(x: torch.Tensor) -> torch.Tensor:
    """A detached copy of the global value."""
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()


def check_same(test: unittest.TestCase,
               model: nn.Module,
               inputs: Any,
               body: Body,
               axes: dict[str, int],
               plan: Any,
               *,
               close: float = 1e-9,
               **options: Any) -> None:
    """A body finds on every rank what it finds with the model alone."""
    expected = body(copy.deepcopy(model))
    for rank, found in enumerate(
            on_ranks(model, inputs, body, axes, plan, **options)):
        test.assertEqual(list(found), list(expected))
        for name, value in expected.items():
            with test.subTest(name=name, rank=rank):
                if isinstance(value, torch.Tensor):
                    # Sums over shards round differently.
                    rounding = (8 * torch.finfo(value.dtype).eps
                                if value.is_floating_point() else 0.0)
                    torch.testing.assert_close(found[name],
                                               value,
                                               rtol=max(close, rounding),
                                               atol=max(close, rounding))
                else:
                    test.assertEqual(found[name], value)
