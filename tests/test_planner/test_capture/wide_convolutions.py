"""Plain torch modules of convolutions for the wide sweep."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from tests.model_zoo import BATCH, Example, example

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}


def _listed(build: Callable[[], Example]) -> Callable[[], Example]:
    MODELS[build.__name__] = example(build)
    return build


def _images(model: nn.Module, size: int = 32) -> Example:
    inputs = torch.randn(BATCH, 3, size, size), torch.randint(0, 8, (BATCH, ))
    return model, inputs, F.cross_entropy


def _conv(ins: int,
          outs: int,
          kernel: int = 3,
          stride: int = 1,
          groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins,
                  outs,
                  kernel,
                  stride,
                  kernel // 2,
                  groups=groups,
                  bias=False), nn.BatchNorm2d(outs), nn.ReLU(inplace=True))


class MixerBlock(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(),
                                    nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(),
                                      nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock() for _ in range(3)))
        self.head = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).mean(1))


@_listed
def mixer() -> Example:
    return _images(Mixer())


class DiffusionUNet(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, 16)
        self.stem, self.down = nn.Conv2d(3, 16, 3, 1, 1), \
            nn.Conv2d(16, 16, 3, 2, 1)
        self.norm, self.up = nn.GroupNorm(4, 16), nn.Upsample(scale_factor=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Conv2d(32, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        skip = self.stem(x) + self.time(time[:, None])[:, :, None, None]
        deep = F.silu(self.norm(self.down(skip)))
        flat = deep.flatten(2).transpose(1, 2)
        mixed = self.attention(flat, flat, flat)[0].transpose(1, 2)
        deep = deep + mixed.reshape(deep.shape)
        return self.head(torch.cat([skip, self.up(deep)], 1))


@_listed
def diffusion_unet() -> Example:
    x = torch.randn(BATCH, 3, 16, 16)
    inputs = x, torch.rand(BATCH), torch.randn_like(x)
    return DiffusionUNet(), inputs, F.mse_loss


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(1, 16, 1), nn.Conv1d(16, 8, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        skips = torch.zeros_like(x)
        for i, layer in enumerate(self.layers):
            gate, value = layer(F.pad(x, (2**i, 0))).chunk(2, 1)
            y = gate.sigmoid() * value.tanh()
            x, skips = x + y, skips + y
        return self.head(skips.relu())


@_listed
def wavenet() -> Example:
    inputs = torch.randn(BATCH, 1, 32), torch.randint(0, 8, (BATCH, 32))
    return WaveNet(), inputs, F.cross_entropy


class Residual(nn.Module):

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width, groups=groups),
                                  nn.Conv2d(width, width, 3, 1, 1),
                                  nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x), inplace=True)


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 8)]


@_listed
def resnext() -> Example:
    return _images(
        nn.Sequential(_conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1),
                      Residual(16, 4), Residual(16, 4), *_head(16)))


class DenseBlock(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(8 + 8 * i, 8) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return torch.cat(found, 1)


@_listed
def densenet() -> Example:
    return _images(
        nn.Sequential(_conv(3, 8), DenseBlock(), _conv(32, 8, 1),
                      nn.AvgPool2d(2), DenseBlock(), *_head(32)))


class Excited(nn.Module):
    """An inverted residual with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = _conv(8, 32, 1), \
            _conv(32, 32, 3, groups=32)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1),
                                     nn.Conv2d(32, 8, 1), nn.SiLU(),
                                     nn.Conv2d(8, 32, 1), nn.Sigmoid())
        self.project = nn.Conv2d(32, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        return x + self.project(y * self.squeeze(y))


@_listed
def efficient_net() -> Example:
    return _images(
        nn.Sequential(_conv(3, 8, 3, 2), Excited(), Excited(), nn.Hardswish(),
                      *_head(8)))


@_listed
def vgg() -> Example:
    return _images(
        nn.Sequential(_conv(3, 8), _conv(8, 8), nn.MaxPool2d(2), _conv(8, 16),
                      nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, 32),
                      nn.ReLU(True), nn.Linear(32, 8)))


@_listed
def alexnet() -> Example:
    return _images(
        nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(),
                      nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
                      nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten(),
                      nn.Linear(16 * 36, 8)))


class Inception(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = _conv(8, 4, 1), _conv(8, 8, 3), \
            _conv(8, 4, 5)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [self.one(x),
             self.three(x),
             self.five(x),
             self.pool(x)], 1)


@_listed
def inception() -> Example:
    return _images(nn.Sequential(_conv(3, 8), Inception(), *_head(20)))


@_listed
def volumes() -> Example:
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4),
                          nn.LeakyReLU(), nn.AdaptiveMaxPool3d(2),
                          nn.Flatten(), nn.Linear(32, 8))
    inputs = torch.randn(BATCH, 1, 8, 8, 8), torch.randint(0, 8, (BATCH, ))
    return model, inputs, F.cross_entropy


@_listed
def weight_norms() -> Example:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Tanh(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(16, 4)))
    inputs = torch.randn(BATCH, 16), torch.randn(BATCH, 4)
    return model, inputs, F.mse_loss
