"""Small models to be cut, and their programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture_call
from planner.capture.entry import bind_inputs
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import PipelineSpec
from planner.ir.program import Program
from planner.pipeline.build import PipelineLayout, pipeline_layout
from planner.planning import Planning
from planner.recipes import RECIPES, policies_for

__all__ = [
    "Layer", "Normed", "Plain", "Row", "Skips", "Tagger", "captured",
    "laid_out", "normed", "plain", "row", "skips", "tagger"
]

Example = tuple[nn.Module, tuple[torch.Tensor, ...], Any]


class Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Row(nn.Module):
    """Equal layers, one after the other."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Plain(nn.Module):
    """Products without a list: one block."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 64)
        self.b = nn.Linear(64, 8)
        self.c = nn.Linear(8, 64)
        self.d = nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(torch.relu(self.a(x)))
        return self.d(torch.relu(self.c(x)))


class Skips(nn.Module):
    """Two levels down and up, whose skips go over several stages."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 8, 3, padding=1)
        self.down2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.middle = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(),
                                    nn.Conv2d(16, 16, 3, padding=1))
        self.up2 = nn.ConvTranspose2d(32, 8, 2, 2)
        self.up1 = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.silu(self.down1(x))
        second = F.silu(self.down2(first))
        deep = self.middle(second)
        up = self.up2(torch.cat([deep, second], 1))
        return self.up1(torch.cat([up, first], 1))


class Normed(nn.Module):
    """Batch norm in both halves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4),
                          nn.ReLU()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Tagger(nn.Module):
    """Classes of tokens; a mask of the batch is read by every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.head = nn.Linear(8, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = (ids != 0)[..., None]
        x = self.embed(ids)
        for layer in self.layers:
            x = torch.where(mask, layer(x), x)
        return self.head(x)


def row() -> Example:
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    return Row(), (x, y), F.mse_loss


def plain() -> Example:
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    return Plain(), (x, y), F.mse_loss


def skips() -> Example:
    x = torch.randn(4, 3, 8, 8)
    return Skips(), (x, torch.randn_like(x)), F.mse_loss


def normed() -> Example:
    x = torch.randn(8, 4, 4, 4)
    return Normed(), (x, torch.randn_like(x)), F.mse_loss


def tagger() -> Example:
    """Ignored tokens lie unevenly over the rows."""
    ids = torch.arange(32).view(8, 4) * 5 % 16
    labels = torch.where(
        torch.arange(32).view(8, 4) % 11 < 7, ids, torch.full_like(ids, -100))
    labels[:2] = -100

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    return Tagger(), (ids, labels), loss


def captured(example: Example) -> Program:
    """The program of a model with its batch."""
    model, inputs, loss_fn = example
    call = bind_inputs(model, inputs, {}, loss_fn)
    return capture_call(model, call, loss_fn=loss_fn)


def laid_out(program: Program, spec: PipelineSpec,
             **axes: int) -> PipelineLayout:
    """A program's layouts with data parallelism beside the pipeline."""
    planning = Planning(program, load_cluster("cpu-gloo").resized(4))
    mesh = MeshSpec(tuple(axes), tuple(axes.values()))
    recipe = RECIPES["pipeline"](microbatches=spec.microbatches)
    return pipeline_layout(planning, spec, policies_for(recipe, mesh), mesh)
