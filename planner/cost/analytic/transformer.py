"""A transformer, as far as its cost depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Transformer", "latent_projections"]

Number = Any  # an int, a float or an array of them


def latent_projections(*, hidden: Number, heads: Number, q_rank: Number,
                       kv_rank: Number, nope_dim: Number, rope_dim: Number,
                       v_dim: Number) -> Number:
    """Parameters before multi-head latent attention (arXiv 2405.04434)."""
    return (hidden * (q_rank + kv_rank + rope_dim) + q_rank * heads *
            (nope_dim + rope_dim) + kv_rank * heads * (nope_dim + v_dim))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """Sizes of a transformer; every field a number or an array of them.

    Parameters
    ----------
    layers, hidden, heads, ffn, vocab, seq : int
    kv_heads : int
    gated : bool
        Whether the MLP has a gate: three matrices and not two.
    experts, top_k, expert_ffn, shared_ffn, expert_layers : int
        Of layers with experts; 0 experts for a dense model.
    cross_layers : int
        How many layers have cross attention besides (decoders of T5).
    target_share : float
        Of an encoder with a decoder: tokens of the decoder, per token of
        the encoder, which `seq` counts.
    causal : bool
    attended : float
        Share of the keys that come before a query, or of all, that it
        attends to, in the mean over layers: less than 1 where some have
        windows.
    tied : bool
        Whether the head shares the embedding's matrix.
    qk_dim, v_dim : int
        Width of a head's queries and keys, and of its values.
    qkv_parameters : int
        Of the projections before attention, per layer; see
        :func:`latent_projections` for latent attention.
    """

    layers: Number
    hidden: Number
    heads: Number
    kv_heads: Number
    qk_dim: Number
    v_dim: Number
    qkv_parameters: Number
    ffn: Number
    vocab: Number
    seq: Number
    gated: Number = False
    experts: Number = 0
    top_k: Number = 0
    expert_ffn: Number = 0
    shared_ffn: Number = 0
    expert_layers: Number = 0
    cross_layers: Number = 0
    target_share: Number = 1.0
    causal: Number = True
    attended: Number = 1.0
    tied: Number = False

    def layer_tokens(self, tokens: Number) -> Number:
        """Tokens that the mean layer sees of `tokens` of the sequence."""
        return tokens * (1 - self.cross_layers / self.layers *
                         (1 - self.target_share))

    def target_tokens(self, tokens: Number) -> Number:
        """Tokens that the head sees of `tokens` of the sequence."""
        return tokens * np.where(self.cross_layers, self.target_share, 1.0)

    @property
    def matrices(self) -> Number:
        """Matrices of an MLP."""
        return 2 + np.asarray(self.gated, dtype=float)

    @property
    def out_parameters(self) -> Number:
        """Of the projection after attention, per layer."""
        return self.hidden * self.heads * self.v_dim

    @property
    def attention_parameters(self) -> Number:
        """Per layer, cross attention spread over all layers."""
        share = 1 + self.cross_layers / self.layers
        return share * (self.qkv_parameters + self.out_parameters)

    @property
    def mlp_parameters(self) -> Number:
        """Per dense layer."""
        return self.matrices * self.hidden * self.ffn

    @property
    def expert_parameters(self) -> Number:
        """All experts of one layer."""
        return (self.experts * self.matrices * self.hidden * self.expert_ffn)

    @property
    def shared_parameters(self) -> Number:
        """Of a layer with experts: the shared ones and the router."""
        return self.hidden * (self.matrices * self.shared_ffn + self.experts)

    @property
    def embedding_parameters(self) -> Number:
        """Of one table or head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> Number:
        """Of the model."""
        dense_layers = self.layers - self.expert_layers
        tables = 2 - np.asarray(self.tied, dtype=float)
        return (self.layers * (self.attention_parameters + 4 * self.hidden) +
                dense_layers * self.mlp_parameters + self.expert_layers *
                (self.expert_parameters + self.shared_parameters) +
                tables * self.embedding_parameters)

    def model_flops(self, tokens: Number) -> Number:
        """Flops of forward and backward, without recomputation.

        As Megatron counts them: products only, attention scores in full
        whether or not the mask removes half of them.
        """
        active = (self.layers * self.attention_parameters +
                  (self.layers - self.expert_layers) * self.mlp_parameters +
                  self.expert_layers *
                  (self.shared_parameters + self.matrices * self.hidden *
                   self.expert_ffn * self.top_k) + self.embedding_parameters)
        scores = ((self.layers + self.cross_layers) * self.heads * self.seq *
                  (self.qk_dim + self.v_dim))
        return 6 * tokens * (active + scores)
