"""Models of published runs, built and captured on the meta device.

A run's model is one of the families of :mod:`scaletorch.models`; three of
its layers are captured, and the program made as deep as the model is.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.cost.analytic.transformer import Transformer
from planner.search.facts import Facts
from scaletorch.models.bert import Bert, BertConfig
from scaletorch.models.gpt2 import GPT2, GPT2Config
from scaletorch.models.llama import Llama, LlamaConfig
from scaletorch.models.moe import Moe, MoeConfig
from scaletorch.models.moe_layers import RouterConfig
from scripts.published.case import Case, Unreadable
from scripts.published.deeper import deepened

__all__ = ["facts_of"]

_MOST_LAYERS = 1000
_LAYERS = 3
"""Captured: the first, one inside and the last."""
_VOCABULARY_PARTS = 1024
"""Vocabularies are padded to a multiple of it, as Megatron's are."""


def facts_of(case: Case, dtype: torch.dtype) -> Facts:
    """The captured model of a row, on all sequences of a step.

    Rows of one model and batch share it.

    Raises
    ------
    Unreadable
        When no family of models has these sizes.
    """
    plan = case.plan
    return _facts(case.model,
                  int(plan.dp * plan.micro_batch * plan.num_microbatches),
                  dtype, bool(plan.fused_attention))


@functools.lru_cache(maxsize=64)
def _facts(model: Transformer, rows: int, dtype: torch.dtype,
           fused_attention: bool) -> Facts:
    size = _Sizes(model)
    build = (_bert if not model.causal else
             _moe if model.experts else _llama if model.gated else _gpt)
    dense = size("layers") - size("expert_layers") if model.experts else 0
    depth = dense + _LAYERS
    with torch.device("meta"):
        module = build(size, min(depth, size("layers"))).to(dtype).train()
        tokens = torch.zeros(rows, size("seq"), dtype=torch.int64)
    kernel = contextlib.nullcontext() if fused_attention else _unfused()
    with kernel:
        program = capture(module, (tokens, tokens))
    return Facts.of(deepened(program, size("layers") - depth))


class _Sizes:
    """Sizes as whole numbers."""

    def __init__(self, model: Transformer) -> None:
        if model.cross_layers:
            raise Unreadable("encoders with a decoder are not built")
        self._model = model
        if self("layers") > _MOST_LAYERS:
            raise Unreadable(f"no model has {model.layers} layers")
        heads = self("heads") + 2 * self("kv_heads")
        if model.qkv_parameters != self("hidden") * self("qk_dim") * heads:
            raise Unreadable("latent attention is not built")

    def __call__(self, name: str) -> int:
        value = getattr(self._model, name)
        if value != int(value):
            raise Unreadable(f"{name} is {value:.2f}, not a whole number")
        return int(value)

    @property
    def vocabulary(self) -> int:
        """Padded."""
        return (math.ceil(self("vocab") / _VOCABULARY_PARTS) *
                _VOCABULARY_PARTS)

    @property
    def tied(self) -> bool:
        return bool(self._model.tied)


def _plain(size: _Sizes) -> dict[str, int]:
    """What models without gates have in common."""
    width, heads = size("hidden"), size("heads")
    if size("ffn") != 4 * width or width % heads or (size("kv_heads")
                                                     != heads):
        raise Unreadable("a model without gates has an MLP of four times its "
                         "width and as many keys as queries")
    return {
        "width": width,
        "heads": heads,
        "vocabulary_size": size.vocabulary,
        "context": size("seq")
    }


def _gpt(size: _Sizes, depth: int) -> nn.Module:
    return GPT2(GPT2Config(depth=depth, **_plain(size)))


def _bert(size: _Sizes, depth: int) -> nn.Module:
    return Bert(BertConfig(depth=depth, **_plain(size)))


def _gated(size: _Sizes) -> dict[str, Any]:
    return {
        "width": size("hidden"),
        "heads": size("heads"),
        "kv_heads": size("kv_heads"),
        "head_dim": size("qk_dim"),
        "vocabulary_size": size.vocabulary,
        "context": size("seq")
    }


def _llama(size: _Sizes, depth: int) -> nn.Module:
    return Llama(
        LlamaConfig(depth=depth,
                    hidden_width=size("ffn"),
                    tied=size.tied,
                    **_gated(size)))


def _moe(size: _Sizes, depth: int) -> nn.Module:
    shared, inner = size("shared_ffn"), size("expert_ffn")
    if shared % inner:
        raise Unreadable("shared experts are as wide as the others")
    dense = size("layers") - size("expert_layers")
    return Moe(
        MoeConfig(depth=depth,
                  hidden_width=inner,
                  router=RouterConfig(experts=size("experts"),
                                      active=size("top_k")),
                  shared=shared // inner,
                  dense_depth=dense,
                  dense_width=size("ffn") if dense else 0,
                  **_gated(size)))


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Attention as Megatron computes it without a fused kernel: one kernel
    scales, masks and normalises the scores that are stored."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                  **_: Any) -> torch.Tensor:
        scores = query @ key.transpose(-2, -1)
        return F.dropout(scores.softmax(-1), 0.1) @ value

    name = "scaled_dot_product_attention"
    replaced: Callable[..., torch.Tensor] = attention
    with mock.patch.object(F, name, replaced):
        yield
