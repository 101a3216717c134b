"""Mixtures of experts: a decoder whose layers are chosen token by token.

Sources: Jiang et al., "Mixtral of Experts", 2024; Dai et al., "DeepSeekMoE",
2024, for shared experts; DeepSeek-AI, "DeepSeek-V2" and "DeepSeek-V3", 2024;
Yang et al., "Qwen3", 2025; the released configs for the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.examples import example_tokens
from scaletorch.models.hugging_face import Names, Pair, Stack
from scaletorch.models.layers import (DecoderLayer, Embedding, GatedMlp,
                                      LatentAttention, LatentConfig, Linear,
                                      Rotation, Yarn, rotation)
from scaletorch.models.losses import next_token
from scaletorch.models.moe_layers import Mixture, RouterConfig
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["Moe", "MoeConfig", "MoeLayer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeConfig:
    """The size of a mixture of experts.

    Parameters
    ----------
    vocabulary_size, width, depth, heads, kv_heads, head_dim : int
    hidden_width : int
        Between an expert's products.
    context : int
        Of the example inputs, in tokens.
    router : RouterConfig
    shared : int
        Experts that all tokens go through.
    dense_depth, dense_width : int
        How many of the first layers have no experts, and between their
        products.
    head_norm : bool
        Whether queries and keys are normalised.
    latent : LatentConfig, optional
        Keys and values come out of one small vector per token; `kv_heads`
        and `head_dim` then say nothing.
    rotary_theta : float
    rotary_scaling : Yarn, optional
    norm_epsilon : float
    """

    vocabulary_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_width: int
    context: int
    router: RouterConfig
    shared: int = 0
    dense_depth: int = 0
    dense_width: int = 0
    head_norm: bool = False
    latent: LatentConfig | None = None
    rotary_theta: float = 1_000_000.0
    rotary_scaling: Yarn | None = None
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, "vocabulary_size", "width", "depth", "heads",
                       "kv_heads", "head_dim", "hidden_width", "context")
        check_divides(self, "kv_heads", "heads")
        if self.dense_depth and self.dense_width < 1:
            raise ValueError("MoeConfig.dense_depth layers have no experts; "
                             "say their dense_width")
        if self.latent and self.head_norm:
            raise ValueError("MoeConfig.head_norm is of attention without "
                             "latent; leave one of them out")

    @property
    def rotary_dim(self) -> int:
        """How much of a head is turned."""
        return self.latent.rotary_dim if self.latent else self.head_dim

    def hugging_face(self) -> Names:
        """The names of ``MixtralForCausalLM``, or with `head_norm` those of
        ``Qwen3MoeForCausalLM``, or with `latent` those of DeepSeek."""
        layer, theirs = "layers.*.", "model.layers.*."
        mixture = f"{theirs}mlp"
        parts = ("gate_proj", "up_proj", "down_proj")
        if not (self.latent or self.head_norm):
            mixture, parts = f"{theirs}block_sparse_moe", ("w1", "w3", "w2")
        gate, up, down = (f"{mixture}.experts.*.{p}.weight" for p in parts)
        ours = f"{layer}mixture."
        found: list[Pair | Stack] = [
            Pair.of("model.embed_tokens", "embedding"),
            *self._attention_pairs(f"{theirs}self_attn.",
                                   f"{layer}attention."),
            Pair.of(f"{mixture}.gate.e_score_correction_bias",
                    f"{ours}router.bias"),
            Pair.of(f"{mixture}.gate", f"{ours}router.gate"),
            Stack(theirs=(gate, up), ours=(f"{ours}experts.gate_up", )),
            Stack(theirs=(down, ), ours=(f"{ours}experts.down", )),
        ]
        for there, here in (("shared_experts.", f"{ours}shared."),
                            ("", f"{layer}dense.")):
            found += [
                Pair.of(f"{theirs}mlp.{there}{name}_proj", f"{here}{name}")
                for name in ("gate", "up", "down")
            ]
        return Names(prefix="model.",
                     pairs=(*found,
                            Pair.of(f"{theirs}input_layernorm",
                                    f"{layer}attention_norm"),
                            Pair.of(f"{theirs}post_attention_layernorm",
                                    f"{layer}mlp_norm"),
                            Pair.of("model.norm",
                                    "norm"), Pair.of("lm_head", "head")))

    def _attention_pairs(self, theirs: str, ours: str) -> list[Pair]:
        if self.latent is None:
            names = {
                f"{n[0]}_proj": n
                for n in ("query", "key", "value", "output")
            }
            if self.head_norm:
                names |= {"q_norm": "query_norm", "k_norm": "key_norm"}
        else:
            names = {
                "q_proj": "query",
                "q_a_proj": "query_down",
                "q_a_layernorm": "query_norm",
                "q_b_proj": "query_up",
                "kv_a_proj_with_mqa": "down",
                "kv_a_layernorm": "norm",
                "kv_b_proj": "up",
                "o_proj": "output"
            }
        return [Pair.of(theirs + a, ours + b) for a, b in names.items()]


class MoeLayer(DecoderLayer):
    """Attention, then experts (or one dense layer), each on what is added.
    """

    def __init__(self, config: MoeConfig, *, dense: bool) -> None:
        super().__init__(config)
        self.dense = GatedMlp(config.width,
                              config.dense_width) if dense else None
        self.mixture = None if dense else Mixture(config.width,
                                                  config.hidden_width,
                                                  config.router,
                                                  shared=config.shared)

    def _attention(self, config: Any) -> nn.Module:
        if config.latent is None:
            return super()._attention(config)
        scaling = config.rotary_scaling
        return LatentAttention(config.width,
                               config.heads,
                               config.latent,
                               norm=self._norm,
                               scale=scaling.product_scale if scaling else 1.0)

    def forward(
        self,
        x: torch.Tensor,
        turn: Rotation,
        mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The next layer's input, and this one's penalty, if it has one."""
        x = self.attended(x, turn, mask)
        if self.mixture is None:
            assert self.dense is not None
            return x + self.dense(self.mlp_norm(x)), None
        out, penalty = self.mixture(self.mlp_norm(x))
        return x + out, penalty


class Moe(nn.Module):
    """The language model; its loss contains its routers' losses."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(
            MoeLayer(config, dense=i < config.dense_depth)
            for i in range(config.depth))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = Linear(config.width, config.vocabulary_size)

    def forward(self,
                tokens: torch.Tensor,
                labels: torch.Tensor | None = None,
                position_ids: torch.Tensor | None = None,
                attention_mask: torch.Tensor | None = None) -> Output:
        """Logits of the next tokens, or their loss.

        Parameters
        ----------
        tokens : Tensor
            Of shape (batch, sequence).
        labels : Tensor, optional
            Of the same shape, as a rule the tokens themselves: they are
            shifted here. -100 is left out.
        position_ids : Tensor, optional
            Of the same shape, where several documents lie in a sequence.
        attention_mask : Tensor, optional
            Of shape (batch, 1, sequence, sequence), True where a token may
            look; left out: at itself and all before it.
        """
        x = self.embedding(tokens)
        turn = rotation(tokens.shape[1],
                        self.config.rotary_dim,
                        theta=self.config.rotary_theta,
                        scaling=self.config.rotary_scaling,
                        like=x,
                        places=position_ids)
        penalties = []
        for layer in self.layers:
            x, penalty = layer(x, turn, attention_mask)
            penalties.append(penalty)
        found = next_token(self.head(self.norm(x)), labels)
        if found.loss is None:
            return found
        return Output(
            loss=sum((p
                      for p in penalties if p is not None), start=found.loss))

    def example_inputs(
            self,
            batch_size: int = 8,
            sequence_length: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and labels, of the config's context if not said."""
        shape = (batch_size, sequence_length or self.config.context)
        return example_tokens(self, shape, self.config.vocabulary_size)


def _mixtral(width: int, depth: int, heads: int,
             hidden_width: int) -> MoeConfig:
    return MoeConfig(vocabulary_size=32_000,
                     width=width,
                     depth=depth,
                     heads=heads,
                     kv_heads=8,
                     head_dim=128,
                     hidden_width=hidden_width,
                     context=4096,
                     router=RouterConfig(experts=8, active=2))


def _deepseek(width: int, depth: int, heads: int, hidden_width: int,
              dense_width: int, query_width: int | None,
              **fields: Any) -> MoeConfig:
    latent = LatentConfig(width=512,
                          query_width=query_width,
                          plain_dim=128,
                          rotary_dim=64,
                          value_dim=128)
    return MoeConfig(width=width,
                     depth=depth,
                     heads=heads,
                     kv_heads=heads,
                     head_dim=latent.plain_dim + latent.rotary_dim,
                     hidden_width=hidden_width,
                     dense_width=dense_width,
                     context=4096,
                     latent=latent,
                     rotary_theta=10_000.0,
                     norm_epsilon=1e-6,
                     **fields)


register(
    Moe, {
        "mixtral-8x7b":
        _mixtral(4096, 32, 32, 14_336),
        "mixtral-8x22b":
        _mixtral(6144, 56, 48, 16_384),
        "qwen3-30b-a3b":
        MoeConfig(vocabulary_size=151_936,
                  width=2048,
                  depth=48,
                  heads=32,
                  kv_heads=4,
                  head_dim=128,
                  hidden_width=768,
                  context=4096,
                  router=RouterConfig(
                      experts=128, active=8, balance_weight=0.001),
                  head_norm=True,
                  norm_epsilon=1e-6),
        "deepseek-v2-lite":
        _deepseek(
            2048,
            27,
            16,
            1408,
            10_944,
            None,
            vocabulary_size=102_400,
            dense_depth=1,
            shared=2,
            rotary_scaling=Yarn(scale=0.707),
            router=RouterConfig(
                experts=64, active=6, normalised=False, balance_weight=0.001)),
        "deepseek-v3":
        _deepseek(7168,
                  61,
                  128,
                  2048,
                  18_432,
                  1536,
                  vocabulary_size=129_280,
                  dense_depth=3,
                  shared=1,
                  rotary_scaling=Yarn(),
                  router=RouterConfig(experts=256,
                                      active=8,
                                      kind="sigmoid",
                                      scale=2.5,
                                      groups=8,
                                      active_groups=4,
                                      corrected=True,
                                      correction_rate=0.001,
                                      balance_weight=0.0001)),
    })
