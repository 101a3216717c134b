"""Vision transformers.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021
(table 1), and Dehghani et al., "Scaling Vision Transformers to 22 Billion
Parameters", 2023 (section 2), whose attention pooling is a mean here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.examples import example_integers, example_values
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import Attention, Linear, Mlp, Table
from scaletorch.models.losses import classified
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """The size of a vision transformer; there is no dropout.

    Parameters
    ----------
    width, depth, heads : int
    patch : int
        Height and width of a patch in pixels.
    image : int
        Height and width of an image in pixels.
    channels, classes : int
    class_token : bool
        Classify by a token of its own; else by the mean of all patches.
    parallel : bool
        A layer's attention and feed-forward layer read the same input, its
        queries and keys are normalised, and there are fewer biases, as in
        ViT-22B.
    norm_epsilon : float
    """

    width: int
    depth: int
    heads: int
    patch: int
    image: int = 224
    channels: int = 3
    classes: int = 1000
    class_token: bool = True
    parallel: bool = False
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "heads", "patch", "image",
                       "channels", "classes")
        check_divides(self, "heads", "width")
        check_divides(self, "patch", "image")

    @property
    def patches(self) -> int:
        """In an image."""
        return (self.image // self.patch)**2

    def hugging_face(self) -> Names:
        """The names of ``ViTForImageClassification``'s checkpoints.

        Raises
        ------
        ValueError
            For what it does not have.
        """
        if self.parallel or not self.class_token:
            raise ValueError("Hugging Face's ViT has no parallel layers and "
                             "needs a class token")
        theirs, layer = "vit.encoder.layer.*.", "layers.*."
        embeddings = "vit.embeddings."
        return Names(prefix="vit.",
                     ignored=("vit.pooler.dense.weight",
                              "vit.pooler.dense.bias"),
                     pairs=(
                         Pair.of(f"{embeddings}cls_token",
                                 "class_token.weight"),
                         Pair.of(f"{embeddings}position_embeddings",
                                 "positions.weight"),
                         Pair.of(f"{embeddings}patch_embeddings.projection",
                                 "embedding"),
                         *(Pair.of(f"{theirs}attention.attention.{name}",
                                   f"{layer}attention.{name}")
                           for name in ("query", "key", "value")),
                         Pair.of(f"{theirs}attention.output.dense",
                                 f"{layer}attention.output"),
                         Pair.of(f"{theirs}intermediate.dense",
                                 f"{layer}mlp.up"),
                         Pair.of(f"{theirs}output.dense", f"{layer}mlp.down"),
                         Pair.of(f"{theirs}layernorm_before",
                                 f"{layer}attention_norm"),
                         Pair.of(f"{theirs}layernorm_after",
                                 f"{layer}mlp_norm"),
                         Pair.of("vit.layernorm", "norm"),
                         Pair.of("classifier", "head"),
                     ))


class ViTLayer(nn.Module):
    """Attention and a feed-forward layer, each after a norm."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.attention = Attention(width,
                                   config.heads,
                                   bias=True,
                                   output_bias=True)
        self.mlp_norm = nn.LayerNorm(width, epsilon)
        self.mlp = Mlp(width, 4 * width, activation=F.gelu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class ParallelViTLayer(nn.Module):
    """Attention and a feed-forward layer side by side after one norm."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm_epsilon = config.norm_epsilon
        self.norm = self._norm(config.width)
        self.attention = Attention(config.width,
                                   config.heads,
                                   output_bias=True,
                                   norm=self._norm)
        self.mlp = Mlp(config.width, 4 * config.width, activation=F.gelu)

    def _norm(self, width: int) -> nn.LayerNorm:
        return nn.LayerNorm(width, self.norm_epsilon, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.attention(y) + self.mlp(y)


class ViT(nn.Module):
    """The classifier."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Conv2d(config.channels, config.width, config.patch,
                                   config.patch)
        self.class_token = Table(1, 1, config.width) \
            if config.class_token else None
        places = config.patches + config.class_token
        self.positions = Table(1, places, config.width)
        layer = ParallelViTLayer if config.parallel else ViTLayer
        self.layers = nn.ModuleList(layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.head = Linear(config.width, config.classes, bias=True)

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
        x = self.embedding(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            first = self.class_token().expand(x.shape[0], -1, -1)
            x = torch.cat([first, x], 1)
        x = x + self.positions()
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        pooled = x.mean(1) if self.class_token is None else x[:, 0]
        return classified(self.head(pooled), labels)

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
    ViT, {
        "vit-b16":
        ViTConfig(width=768, depth=12, heads=12, patch=16),
        "vit-l16":
        ViTConfig(width=1024, depth=24, heads=16, patch=16),
        "vit-h14":
        ViTConfig(width=1280, depth=32, heads=16, patch=14),
        "vit-22b":
        ViTConfig(width=6144,
                  depth=48,
                  heads=48,
                  patch=14,
                  class_token=False,
                  parallel=True),
    })
