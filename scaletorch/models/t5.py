"""T5: an encoder and a decoder with relative positions.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", 2020 (sections 2.1 and 3.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_positive
from scaletorch.models.examples import example_integers
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import Attention, Embedding, Mlp
from scaletorch.models.losses import IGNORED, same_token
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["T5", "T5Config"]

_BUCKETS, _FARTHEST = 32, 128
_START = 0
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """The size of a T5; there is no dropout.

    Parameters
    ----------
    width, heads, hidden_width : int
    depth : int
        Layers of the encoder and as many of the decoder.
    head_dim : int
    vocabulary_size : int
    context : int
        Of the example inputs, in tokens.
    """

    width: int
    depth: int
    heads: int
    hidden_width: int
    head_dim: int = 64
    vocabulary_size: int = 32_128
    context: int = 512

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "heads", "hidden_width",
                       "head_dim", "vocabulary_size", "context")

    def hugging_face(self) -> Names:
        """The names of ``T5ForConditionalGeneration``."""
        return Names(prefix="",
                     ignored=("lm_head.weight", "encoder.embed_tokens.weight",
                              "decoder.embed_tokens.weight"),
                     pairs=(
                         Pair.of("shared", "embedding"),
                         *_stack_names("encoder", ("SelfAttention", )),
                         *_stack_names("decoder",
                                       ("SelfAttention", "EncDecAttention")),
                     ))


def _stack_names(stack: str, attentions: tuple[str, ...]) -> list[Pair]:
    theirs, ours = f"{stack}.block.*.layer.", f"{stack}.layers.*."
    pairs = [
        Pair.of(f"{stack}.final_layer_norm", f"{stack}.norm"),
        Pair.of(
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias",
            f"{stack}.distances")
    ]
    for i, (a, b) in enumerate(zip(attentions, ("attention", "crossing"))):
        pairs.append(Pair.of(f"{theirs}{i}.layer_norm", f"{ours}{b}_norm"))
        pairs += [
            Pair.of(f"{theirs}{i}.{a}.{name[0]}", f"{ours}{b}.{name}")
            for name in ("query", "key", "value", "output")
        ]
    last = f"{theirs}{len(attentions)}."
    return [
        *pairs,
        Pair.of(f"{last}layer_norm", f"{ours}mlp_norm"),
        Pair.of(f"{last}DenseReluDense.wi", f"{ours}mlp.up"),
        Pair.of(f"{last}DenseReluDense.wo", f"{ours}mlp.down")
    ]


def _norm(config: T5Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.width, eps=_EPSILON)


def _attention(config: T5Config) -> Attention:
    # The scale of products is left to the initial weights.
    return Attention(config.width,
                     config.heads,
                     head_dim=config.head_dim,
                     scale=1.0,
                     std=(config.width * config.head_dim**0.5)**-0.5,
                     output_std=(config.heads * config.head_dim)**-0.5)


class T5Layer(nn.Module):
    """Attention, attention to the encoder where there is one, and a
    feed-forward layer, each after a norm."""

    def __init__(self, config: T5Config, *, crosses: bool) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = _attention(config)
        self.crossing_norm = _norm(config) if crosses else None
        self.crossing = _attention(config) if crosses else None
        self.mlp_norm = _norm(config)
        self.mlp = Mlp(config.width,
                       config.hidden_width,
                       activation=F.relu,
                       bias=False,
                       up_std=config.width**-0.5,
                       down_std=config.hidden_width**-0.5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor,
                source: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        if self.crossing is not None and self.crossing_norm is not None:
            x = x + self.crossing(self.crossing_norm(x), source=source)
        return x + self.mlp(self.mlp_norm(x))


class T5Stack(nn.Module):
    """The encoder or the decoder."""

    def __init__(self, config: T5Config, *, decodes: bool) -> None:
        super().__init__()
        self.decodes = decodes
        self.distances = Embedding(_BUCKETS,
                                   config.heads,
                                   std=config.width**-0.5)
        self.layers = nn.ModuleList(
            T5Layer(config, crosses=decodes) for _ in range(config.depth))
        self.norm = _norm(config)

    def forward(self,
                x: torch.Tensor,
                source: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._mask(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, mask, source)
        return self.norm(x)

    def _mask(self, length: int, device: torch.device) -> torch.Tensor:
        """What is added to products: learned by distance, one per head."""
        places = torch.arange(length, device=device)
        distance = places - places[:, None]
        buckets = _bucket(distance, both_ways=not self.decodes)
        mask = self.distances(buckets).permute(2, 0, 1)
        if self.decodes:
            mask = mask.masked_fill(distance > 0, float("-inf"))
        return mask[None]


def _bucket(distance: torch.Tensor, *, both_ways: bool) -> torch.Tensor:
    """Near distances have a bucket each, far ones share them by powers."""
    count = _BUCKETS // 2 if both_ways else _BUCKETS
    size = distance.abs() if both_ways else (-distance).clamp(min=0)
    near = count // 2
    # The smallest distance that shares a bucket is `near`: no log of 0.
    power = torch.log(size.clamp(min=near).float() / near) / math.log(
        _FARTHEST / near)
    far = (near + (power * (count - near)).long()).clamp(max=count - 1)
    bucket = torch.where(size < near, size, far)
    return bucket + (distance > 0) * count if both_ways else bucket


class T5(nn.Module):
    """The model; its head is its embedding."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size,
                                   config.width,
                                   std=1.0)
        self.encoder = T5Stack(config, decodes=False)
        self.decoder = T5Stack(config, decodes=True)

    def forward(self,
                tokens: torch.Tensor,
                targets: torch.Tensor | None = None,
                labels: torch.Tensor | None = None) -> Output:
        """Logits of the target's tokens, or their loss.

        Parameters
        ----------
        tokens : Tensor
            That are encoded, of shape (batch, source sequence).
        targets : Tensor, optional
            That are decoded, of shape (batch, sequence); the labels behind
            a start token if left out.
        labels : Tensor, optional
            Of the same shape: the token that is to follow each target.
            -100 is left out.

        Raises
        ------
        ValueError
            With neither targets nor labels.
        """
        if targets is None:
            if labels is None:
                raise ValueError("T5 needs targets to decode, or labels that "
                                 "make them")
            targets = _delayed(labels)
        source = self.encoder(self.embedding(tokens))
        x = self.decoder(self.embedding(targets), source)
        # The tied head sees inputs of the scale that an own one would.
        x = x * self.config.width**-0.5
        return same_token(F.linear(x, self.embedding.weight), labels)

    def example_inputs(
            self,
            batch_size: int = 8,
            sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and labels, of the config's context if not said."""
        shape = (batch_size, sequence_length or self.config.context)
        high = self.config.vocabulary_size
        return {
            "tokens": example_integers(self, shape, high),
            "labels": example_integers(self, shape, high, seed=1)
        }


def _delayed(labels: torch.Tensor) -> torch.Tensor:
    known = labels.masked_fill(labels == IGNORED, _START)
    return F.pad(known, (1, 0), value=_START)[:, :-1]


register(
    T5, {
        "t5-small": T5Config(width=512, depth=6, heads=8, hidden_width=2048),
        "t5-base": T5Config(width=768, depth=12, heads=12, hidden_width=3072),
        "t5-large": T5Config(width=1024, depth=24, heads=16,
                             hidden_width=4096),
    })
