"""A model whose shapes follow from the values of an input.

As in models of images of any size: patches of all images stand in one row
after another, and a small table says how many rows and columns each has.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Grids", "grid_inputs"]

WIDTH, VOCABULARY, IMAGE = 16, 32, 31


def positions(grid: torch.Tensor) -> torch.Tensor:
    """The row of every patch in its image."""
    return torch.cat([
        torch.arange(h).view(-1, 1).expand(h, w).flatten()
        for h, w in grid.tolist()
    ])


class _Attention(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        parts = []
        for part in self.qkv(x).split(lengths.tolist()):
            q, k, v = part.view(1, -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            parts.append(y.transpose(1, 2).reshape(-1, WIDTH))
        return x + self.out(torch.cat(parts))


class _Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.gelu(self.first(x)))


class Grids(nn.Module):
    """Encodes images and puts them into a text, as a language model does."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.step = 2
        self.rows = nn.Embedding(8, WIDTH)
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.times = nn.Embedding(64, WIDTH)
        self.images = nn.ModuleList(_Attention() for _ in range(layers))
        self.texts = nn.ModuleList(_Layer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def times_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Words count as one step, images as several; row by row."""
        rows = []
        for row in tokens:
            time, times = 0, []
            for is_image in (row == IMAGE).tolist():
                times.append(time)
                time += self.step if is_image else 1
            rows.append(torch.tensor(times))
        return torch.stack(rows)

    def forward(self, patches: torch.Tensor, grid: torch.Tensor,
                tokens: torch.Tensor) -> torch.Tensor:
        lengths = torch.repeat_interleave(grid[:, 0] * grid[:, 1], 1)
        x = patches + self.rows(positions(grid))
        for layer in self.images:
            x = layer(x, lengths)
        images = torch.stack([p.mean(0) for p in x.split(lengths.tolist())])
        y = self.words(tokens) + self.times(self.times_of(tokens))
        y = torch.where((tokens == IMAGE).unsqueeze(-1), images.unsqueeze(1),
                        y)
        for layer in self.texts:
            y = layer(y)
        return F.cross_entropy(
            self.head(y[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def grid_inputs(*sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """One image of so many rows and columns in each row of text."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.tensor(sizes)
    tokens = torch.randint(0, IMAGE, (len(sizes), 8), generator=generator)
    tokens[:, 2] = IMAGE
    count = int(grid.prod(-1).sum())
    return {
        "patches": torch.randn(count, WIDTH, generator=generator),
        "grid": grid,
        "tokens": tokens
    }
