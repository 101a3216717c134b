"""BERT: an encoder that fills in masked tokens.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers", 2019 (section 3), and the released uncased vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import (check_context, check_divides,
                                      check_positive)
from scaletorch.models.examples import example_integers
from scaletorch.models.hugging_face import Names, Pair
from scaletorch.models.layers import Attention, Embedding, Linear, Mlp
from scaletorch.models.losses import same_token
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["Bert", "BertConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The size of a BERT; there is no dropout.

    Parameters
    ----------
    width, depth, heads : int
    vocabulary_size : int
    context : int
        The longest sequence, in tokens.
    segments : int
        Kinds of token, such as first and second sentence.
    norm_epsilon : float
    """

    width: int
    depth: int
    heads: int
    vocabulary_size: int = 30_522
    context: int = 512
    segments: int = 2
    norm_epsilon: float = 1e-12

    def __post_init__(self) -> None:
        check_positive(self, "width", "depth", "heads", "vocabulary_size",
                       "context", "segments")
        check_divides(self, "heads", "width")

    def hugging_face(self) -> Names:
        """The names of ``BertForMaskedLM``."""
        theirs, layer = "bert.encoder.layer.*.", "layers.*."
        head, embeddings = "cls.predictions.", "bert.embeddings."
        return Names(
            prefix="bert.",
            ignored=(f"{embeddings}position_ids", f"{head}decoder.weight",
                     f"{head}decoder.bias", "bert.pooler.dense.weight",
                     "bert.pooler.dense.bias", "cls.seq_relationship.weight",
                     "cls.seq_relationship.bias"),
            pairs=(
                Pair.of(f"{embeddings}word_embeddings", "embedding"),
                Pair.of(f"{embeddings}position_embeddings", "positions"),
                Pair.of(f"{embeddings}token_type_embeddings", "segments"),
                Pair.of(f"{embeddings}LayerNorm", "norm"),
                *(Pair.of(f"{theirs}attention.self.{name}",
                          f"{layer}attention.{name}")
                  for name in ("query", "key", "value")),
                Pair.of(f"{theirs}attention.output.dense",
                        f"{layer}attention.output"),
                Pair.of(f"{theirs}attention.output.LayerNorm",
                        f"{layer}attention_norm"),
                Pair.of(f"{theirs}intermediate.dense", f"{layer}mlp.up"),
                Pair.of(f"{theirs}output.dense", f"{layer}mlp.down"),
                Pair.of(f"{theirs}output.LayerNorm", f"{layer}mlp_norm"),
                Pair.of(f"{head}transform.dense", "head.transform"),
                Pair.of(f"{head}transform.LayerNorm", "head.norm"),
                Pair.of(f"{head}bias", "head.bias"),
            ))


class BertLayer(nn.Module):
    """Attention and a feed-forward layer, each before a norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention = Attention(width,
                                   config.heads,
                                   bias=True,
                                   output_bias=True)
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.mlp = Mlp(width, 4 * width, activation=F.gelu)
        self.mlp_norm = nn.LayerNorm(width, epsilon)

    def forward(self, x: torch.Tensor,
                mask: torch.Tensor | None) -> torch.Tensor:
        x = self.attention_norm(x + self.attention(x, mask=mask))
        return self.mlp_norm(x + self.mlp(x))


class BertHead(nn.Module):
    """From the last layer to the vocabulary, by the embedding's rows."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Linear(config.width, config.width, bias=True)
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.bias = nn.Parameter(torch.empty(config.vocabulary_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.gelu(self.transform(x))), rows, self.bias)


class Bert(nn.Module):
    """The masked language model."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.positions = Embedding(config.context, config.width)
        self.segments = Embedding(config.segments, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_epsilon)
        self.layers = nn.ModuleList(
            BertLayer(config) for _ in range(config.depth))
        self.head = BertHead(config)

    def forward(self,
                tokens: torch.Tensor,
                labels: torch.Tensor | None = None,
                *,
                segments: torch.Tensor | None = None,
                mask: torch.Tensor | None = None) -> Output:
        """Logits of every token, or the loss of those with a label.

        Parameters
        ----------
        tokens : Tensor
            Of shape (batch, sequence), no longer than the context.
        labels : Tensor, optional
            Of the same shape: the token that belongs at the same place,
            -100 where none is asked for. Nothing is shifted.
        segments : Tensor, optional
            Of the same shape: the kind of each token; 0 if left out.
        mask : Tensor of bool, optional
            Of the same shape: false for padding.
        """
        check_context(self.config, tokens)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        if segments is None:
            segments = torch.zeros_like(tokens)
        x = self.norm(
            self.embedding(tokens) + self.positions(places) +
            self.segments(segments))
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return same_token(self.head(x, self.embedding.weight), labels)

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


register(
    Bert, {
        "bert-base": BertConfig(width=768, depth=12, heads=12),
        "bert-large": BertConfig(width=1024, depth=24, heads=16),
    })
