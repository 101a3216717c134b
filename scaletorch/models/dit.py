"""Diffusion transformers.

Sources: Peebles and Xie, "Scalable Diffusion Models with Transformers",
2023 (table 1; patches of 2), whose blocks are modulated by adaLN-Zero, and
Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (equation 14),
for the loss. No variance is predicted.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.examples import example_integers, example_values
from scaletorch.models.layers import Attention, Embedding, Linear, Mlp
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["DiT", "DiTConfig"]

_gelu = functools.partial(F.gelu, approximate="tanh")
_FREQUENCIES = 256
_LONGEST = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """The size of a diffusion transformer.

    Parameters
    ----------
    width, depth, heads : int
    patch : int
        Height and width of a patch in latent pixels.
    latent : int
        Height and width of a latent image; 32 is an image of 256 pixels.
    channels : int
        Of a latent image.
    classes : int
        Class number `classes` itself stands for no class.
    steps : int
        Of the diffusion, in the example inputs.
    """

    width: int
    depth: int
    heads: int
    patch: int = 2
    latent: int = 32
    channels: int = 4
    classes: int = 1000
    steps: int = 1000

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "heads", "patch", "latent",
                       "channels", "classes", "steps")
        check_divides(self, "heads", "width")
        check_divides(self, "patch", "latent")
        if self.width % 4:
            raise ValueError("DiTConfig.width must be a multiple of 4, for "
                             "sines and cosines of two coordinates, got "
                             f"{self.width}")


class TimeEmbedding(nn.Module):
    """Two layers on the sines and cosines of a step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear(_FREQUENCIES, width, bias=True)
        self.down = Linear(width, width, bias=True)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        waves = _waves(steps.float(), _FREQUENCIES)
        return self.down(F.silu(self.up(waves.to(self.up.weight.dtype))))


class DiTLayer(nn.Module):
    """A transformer layer whose norms a condition shifts and scales and
    whose branches it gates; all gates are closed at the start."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = Attention(width,
                                   config.heads,
                                   bias=True,
                                   output_bias=True)
        self.mlp = Mlp(width, 4 * width, activation=_gelu)
        self.modulation = Linear(width, 6 * width, bias=True, std=0.0)

    def forward(self, x: torch.Tensor,
                condition: torch.Tensor) -> torch.Tensor:
        parts = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        y = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attention(y)
        y = self.norm(x) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.mlp(y)


class DiTHead(nn.Module):
    """From tokens to the values of their patches; zero at the start."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.modulation = Linear(width, 2 * width, bias=True, std=0.0)
        self.output = Linear(width,
                             config.patch**2 * config.channels,
                             bias=True,
                             std=0.0)

    def forward(self, x: torch.Tensor,
                condition: torch.Tensor) -> torch.Tensor:
        modulation = self.modulation(F.silu(condition))[:, None]
        shift, scale = modulation.chunk(2, -1)
        return self.output(self.norm(x) * (1 + scale) + shift)


class DiT(nn.Module):
    """Predicts the noise in a noisy latent image."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Conv2d(config.channels, config.width, config.patch,
                                   config.patch)
        self.time = TimeEmbedding(config.width)
        self.label = Embedding(config.classes + 1, config.width)
        self.layers = nn.ModuleList(
            DiTLayer(config) for _ in range(config.depth))
        self.head = DiTHead(config)

    def forward(self,
                latents: torch.Tensor,
                steps: torch.Tensor,
                classes: torch.Tensor,
                noise: torch.Tensor | None = None) -> Output:
        """The predicted noise as logits, or its mean squared error.

        Parameters
        ----------
        latents : Tensor
            Noisy, of shape (batch, channels, height, width).
        steps, classes : Tensor
            Of shape (batch,).
        noise : Tensor, optional
            That was mixed in, of the shape of `latents`.
        """
        x = self.embedding(latents).flatten(2).transpose(1, 2)
        side = self.config.latent // self.config.patch
        x = x + _places(side, self.config.width, x)
        condition = self.time(steps) + self.label(classes)
        for layer in self.layers:
            x = layer(x, condition)
        found = self._image(self.head(x, condition), side)
        if noise is None:
            return Output(logits=found)
        return Output(loss=F.mse_loss(found, noise))

    def _image(self, patches: torch.Tensor, side: int) -> torch.Tensor:
        patch = self.config.patch
        x = patches.unflatten(2, (patch, patch, -1))
        x = x.unflatten(1, (side, side)).permute(0, 5, 1, 3, 2, 4)
        return x.flatten(4).flatten(2, 3)

    def example_inputs(self, batch_size: int = 8) -> dict[str, torch.Tensor]:
        """Latents, steps, classes and noise."""
        config = self.config
        shape = (batch_size, config.channels, config.latent, config.latent)
        return {
            "latents": example_values(self, shape),
            "steps": example_integers(self, (batch_size, ), config.steps),
            "classes": example_integers(self, (batch_size, ), config.classes),
            "noise": example_values(self, shape, seed=1)
        }


def _waves(x: torch.Tensor, count: int) -> torch.Tensor:
    """Of numbers (n,), half `count` cosines and then as many sines."""
    order = torch.arange(count // 2, dtype=torch.float32, device=x.device)
    frequencies = torch.exp(-math.log(_LONGEST) * order / (count // 2))
    angles = x[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _places(side: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Waves of the column and of the row, for each patch of a square."""
    line = torch.arange(side, dtype=torch.float32, device=like.device)
    waves = _waves(line, width // 2)
    columns = waves.expand(side, -1, -1)
    rows = waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1).to(like.dtype)


register(
    DiT, {
        "dit-s": DiTConfig(width=384, depth=12, heads=6),
        "dit-b": DiTConfig(width=768, depth=12, heads=12),
        "dit-l": DiTConfig(width=1024, depth=24, heads=16),
        "dit-xl": DiTConfig(width=1152, depth=28, heads=16),
    })
