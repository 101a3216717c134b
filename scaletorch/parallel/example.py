"""The small models that the lessons of this package draw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import planner.ops  # noqa: F401, registers scaletorch::experts

__all__ = ["Attention", "Mixture", "Perceptron", "Stack", "inputs"]

_WIDTH = 1024


class Perceptron(nn.Module):
    """A perceptron of two products, with a norm before and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH, bias=False)
        self.up = nn.Linear(_WIDTH, 4 * _WIDTH, bias=False)
        self.down = nn.Linear(4 * _WIDTH, _WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Attention(nn.Module):
    """Causal attention of sixteen heads, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH,
                                                                _WIDTH,
                                                                bias=False)
                                                      for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (16, -1)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Mixture(nn.Module):
    """Eight gated experts, of which each token takes two, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(_WIDTH, 8, bias=False)
        self.gate_up = nn.Parameter(torch.empty(8, 4 * _WIDTH, _WIDTH))
        self.down = nn.Parameter(torch.empty(8, _WIDTH, 2 * _WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        weights, index = self.router(rows).softmax(-1).topk(2)
        y = torch.ops.scaletorch.experts(rows, index, weights, self.gate_up,
                                         self.down)
        return x + y.view_as(x)


class Stack(nn.Module):
    """An embedding, layers of one kind and a loss; on meta."""

    def __init__(self, kind: type[nn.Module], *, depth: int = 2) -> None:
        super().__init__()
        with torch.device("meta"):
            self.tokens = nn.Embedding(256, _WIDTH)
            self.layers = nn.ModuleList(kind() for _ in range(depth))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def inputs() -> tuple[torch.Tensor]:
    """Two sequences of 8192 tokens, on meta."""
    return (torch.empty(2, 8192, dtype=torch.long, device="meta"), )
