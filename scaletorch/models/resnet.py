"""Residual networks.

Source: He et al., "Deep Residual Learning for Image Recognition", 2016
(table 1). A bottleneck's stride is at its 3x3 convolution (version 1.5), as
in torchvision and Hugging Face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_positive
from scaletorch.models.examples import example_integers, example_values
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import Linear
from scaletorch.models.losses import classified
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["ResNet", "ResNetConfig"]

_BOTTLENECK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig:
    """The size of a residual network.

    Parameters
    ----------
    depths : tuple of int
        Blocks of each stage.
    bottleneck : bool
        Blocks of three convolutions of which the middle one is narrow;
        else of two.
    width : int
        Channels of the first convolution; stages double it.
    image, channels, classes : int
        `image` is the height and width of the example inputs in pixels.
    """

    depths: tuple[int, ...]
    bottleneck: bool
    width: int = 64
    image: int = 224
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        check_positive(self, "width", "image", "channels", "classes")
        if not self.depths or min(self.depths) < 1:
            raise ValueError("ResNetConfig.depths needs a block in every "
                             f"stage, got {self.depths!r}")

    def hugging_face(self) -> Names:
        """The names of ``ResNetForImageClassification``."""
        theirs, block = "resnet.encoder.stages.*.layers.*.", "stages.*.*."
        parts = [("resnet.embedder.embedder", "stem"),
                 (f"{theirs}layer.*", f"{block}path.*"),
                 (f"{theirs}shortcut", f"{block}shortcut")]
        return Names(prefix="resnet.",
                     pairs=(
                         *(Pair.of(f"{a}.convolution", f"{b}.convolution")
                           for a, b in parts),
                         *(Pair.of(f"{a}.normalization", f"{b}.norm")
                           for a, b in parts),
                         Pair.of("classifier.1", "head"),
                     ))


class Convolution(nn.Conv2d):
    """Without bias; drawn by the variance of its outputs."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight,
                                mode="fan_out",
                                nonlinearity="relu")


class NormedConvolution(nn.Module):
    """A convolution of odd size and a batch norm."""

    def __init__(self,
                 inputs: int,
                 outputs: int,
                 size: int,
                 stride: int = 1) -> None:
        super().__init__()
        self.convolution = Convolution(inputs,
                                       outputs,
                                       size,
                                       stride,
                                       size // 2,
                                       bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(x))


class Block(nn.Module):
    """Convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *,
                 bottleneck: bool) -> None:
        super().__init__()
        narrow = outputs // _BOTTLENECK
        path = [
            NormedConvolution(inputs, narrow, 1),
            NormedConvolution(narrow, narrow, 3, stride),
            NormedConvolution(narrow, outputs, 1)
        ] if bottleneck else [
            NormedConvolution(inputs, outputs, 3, stride),
            NormedConvolution(outputs, outputs, 3)
        ]
        self.path = nn.ModuleList(path)
        changes = stride != 1 or inputs != outputs
        self.shortcut = NormedConvolution(inputs, outputs, 1, stride) \
            if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in self.path[:-1]:
            y = F.relu(layer(y))
        around = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.path[-1](y) + around)


class ResNet(nn.Module):
    """The classifier."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = NormedConvolution(config.channels, config.width, 7, 2)
        self.stages = nn.ModuleList()
        inputs = config.width
        for stage, depth in enumerate(config.depths):
            outputs = config.width * 2**stage
            outputs *= _BOTTLENECK if config.bottleneck else 1
            self.stages.append(
                nn.ModuleList(
                    Block(outputs if i else inputs,
                          outputs,
                          1 if i or not stage else 2,
                          bottleneck=config.bottleneck) for i in range(depth)))
            inputs = outputs
        self.head = Linear(inputs, config.classes, bias=True)

    def forward(self,
                images: torch.Tensor,
                labels: torch.Tensor | None = None) -> Output:
        """Logits of the classes, or their loss.

        Parameters
        ----------
        images : Tensor
            Of shape (batch, channels, height, width).
        labels : Tensor, optional
            Of shape (batch,); -100 is left out.
        """
        x = F.max_pool2d(F.relu(self.stem(images)), 3, 2, 1)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return classified(self.head(x.mean((2, 3))), labels)

    def example_inputs(self, batch_size: int = 8) -> dict[str, torch.Tensor]:
        """Images and labels."""
        size = self.config.image
        shape = (batch_size, self.config.channels, size, size)
        return {
            "images": example_values(self, shape),
            "labels": example_integers(self, (batch_size, ),
                                       self.config.classes)
        }


register(
    ResNet, {
        "resnet18": ResNetConfig(depths=(2, 2, 2, 2), bottleneck=False),
        "resnet34": ResNetConfig(depths=(3, 4, 6, 3), bottleneck=False),
        "resnet50": ResNetConfig(depths=(3, 4, 6, 3), bottleneck=True),
        "resnet101": ResNetConfig(depths=(3, 4, 23, 3), bottleneck=True),
        "resnet152": ResNetConfig(depths=(3, 8, 36, 3), bottleneck=True),
    })
